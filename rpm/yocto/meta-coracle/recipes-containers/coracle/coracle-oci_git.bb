SUMMARY = "OCI container runtime, in the place of runc"

require coracle.inc
inherit update-alternatives

# As meta-virtualization calls what containerd, podman and Docker run.
PROVIDES += "virtual/runc"

CARGO_BUILD_FLAGS:append = " --no-default-features"

ALTERNATIVE:${PN} = "runc"
ALTERNATIVE_LINK_NAME[runc] = "${bindir}/runc"
ALTERNATIVE_TARGET[runc] = "${bindir}/coracle"
ALTERNATIVE_PRIORITY = "20"

RRECOMMENDS:${PN}:class-target = "kernel-module-overlay"
RPROVIDES:${PN} = "virtual-runc"
RCONFLICTS:${PN} = "coracle runc-opencontainers runc-docker"
