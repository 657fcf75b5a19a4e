# Only for who asks for it: DISTRO_FEATURES:append = " coracle". Without, this layer changes no kernel.

# nooelint: oelint.vars.noncoreoverride - a distribution feature decides
FILESEXTRAPATHS:prepend := "${THISDIR}/${PN}:"

# nooelint: oelint.vars.noncoreoverride - a distribution feature decides
SRC_URI:append = "${@bb.utils.contains('DISTRO_FEATURES', 'coracle', ' file://coracle.cfg', '', d)}"
