SUMMARY = "A small image that runs containers"
DESCRIPTION = "What boots, and coracle: kubelet or K3s, or coracle launch, go on from there."
LICENSE = "MIT"

inherit core-image features_check

REQUIRED_DISTRO_FEATURES = "systemd usrmerge"

IMAGE_INSTALL = "packagegroup-core-boot ca-certificates coracle"
