# Only for who asks for it: DISTRO_FEATURES:append = " coracle". Without, this layer changes no kernel.
FILESEXTRAPATHS:prepend := "${THISDIR}/${PN}:"

SRC_URI:append = "${@bb.utils.contains('DISTRO_FEATURES', 'coracle', ' file://coracle.cfg', '', d)}"
