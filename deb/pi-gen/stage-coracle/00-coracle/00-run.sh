#!/bin/bash -e
# Installs the package in files/ into the image, with what it recommends, and switches the memory controller on.

packages=(files/coracle_*_"${ARCH}".deb)
if [ ${#packages[@]} != 1 ] || [ ! -e "${packages[0]}" ]; then
	echo "one package of coracle for ${ARCH} is needed in ${PWD}/files: deb/build ${ARCH} --out ${PWD}/files" >&2
	exit 1
fi

# Not /tmp, over which on_chroot mounts. Nothing runs in there that could be started: the package enables its units only.
install -m 644 "${packages[0]}" "${ROOTFS_DIR}/coracle.deb"
on_chroot <<EOF
apt-get -o Acquire::Retries=3 install -y /coracle.deb
EOF
rm "${ROOTFS_DIR}/coracle.deb"

# The firmware's device tree has cgroup_disable=memory, and the kernel goes by the later of the two. The file is one line.
cmdline="${ROOTFS_DIR}/boot/firmware/cmdline.txt"
if ! grep -qw 'cgroup_enable=memory' "${cmdline}"; then
	sed -i '1s/[[:space:]]*$/ cgroup_enable=memory/' "${cmdline}"
fi
