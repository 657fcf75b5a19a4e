SUMMARY = "Container runtime for constrained devices"

require coracle.inc
inherit pkgconfig systemd

# The class has zstd-sys look for the system's library.
DEPENDS += "zstd"

SYSTEMD_SERVICE:${PN} = "coracle-keeper.service coracle.socket coracle.service"

FILES:${PN} += "${nonarch_libdir}/modules-load.d ${nonarch_libdir}/sysctl.d ${nonarch_libdir}/tmpfiles.d"
CONFFILES:${PN} = "${sysconfdir}/apparmor.d/coracle-default ${sysconfdir}/coracle/config.toml"

# What the kernel has built in has no package: hence no dependencies. cni, the network plugins, is of meta-virtualization;
# bitbake refuses to recommend what no recipe makes.
RRECOMMENDS:${PN}:class-target = "${@bb.utils.contains('BBFILE_COLLECTIONS', 'virtualization-layer', 'cni', '', d)} \
                                  iptables \
                                  kernel-module-br-netfilter \
                                  kernel-module-bridge \
                                  kernel-module-overlay \
                                  kernel-module-veth \
                                  kernel-module-xt-addrtype \
                                  kernel-module-xt-comment \
                                  kernel-module-xt-conntrack \
                                  kernel-module-xt-mark \
                                  kernel-module-xt-masquerade"
RPROVIDES:${PN} = "coracle-oci"
RCONFLICTS:${PN} = "coracle-oci"
RREPLACES:${PN} = "coracle-oci"
