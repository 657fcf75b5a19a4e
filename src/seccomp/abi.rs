//! System call ABIs, and the choice of those that a profile names and this host can run.

use oci_spec::runtime::Arch;

use crate::error::{Error, Kind, Result};

/// Set in every x32 number: x32 shares x86-64's audit architecture. Value of `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Arm's private calls (`breakpoint`, `cacheflush`, `set_tls`, ...) have numbers from here on, far above the table.
pub(super) const ARM_PRIVATE: u32 = 0xf_0000;

/// A system call ABI of a machine this program runs on; the order is that of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X8664,
    X86,
    X32,
    Arm,
    Aarch64,
}

impl Abi {
    pub(super) const COUNT: usize = 5;
    #[cfg(test)]
    pub(super) const ALL: [Self; Self::COUNT] = [Self::X8664, Self::X86, Self::X32, Self::Arm, Self::Aarch64];

    /// The ABI that this program was built for.
    pub(super) fn native() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X8664),
            "x86" => Ok(Self::X86),
            "arm" => Ok(Self::Arm),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(Error::new(Kind::Unsupported, format!("seccomp filters on {other}")).hint(
                "seccomp works on x86_64, aarch64 and arm; remove linux.seccomp from the bundle's config",
            )),
        }
    }

    /// The ABIs to build for: `native`, then those `named` in the profile that a kernel running `native` programs can
    /// report at all. Rules for the others (s390x on an ARM board, say) would never match.
    pub(super) fn wanted(native: Self, named: &[Arch]) -> Vec<Self> {
        let mut wanted = vec![native];
        for abi in named.iter().filter_map(|arch| Self::of(*arch)) {
            if abi.family() == native.family() && !wanted.contains(&abi) {
                wanted.push(abi);
            }
        }
        wanted
    }

    fn of(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchX86_64 => Some(Self::X8664),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchArm => Some(Self::Arm),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            _ => None,
        }
    }

    fn family(self) -> bool {
        matches!(self, Self::Arm | Self::Aarch64)
    }

    /// The value in `seccomp_data.arch`: `AUDIT_ARCH_*` of linux/audit.h.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X8664 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Arm => 0x4000_0028,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The bits that every number of this ABI has set in addition to the number in the table.
    pub(super) fn number_bits(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }

    /// Returns whether arguments are compared with all 64 bits. On 32-bit ABIs a value in the profile is cut to its low
    /// half, like in libseccomp, so that -1 written with 64 bits matches.
    pub(super) fn is_64_bit(self) -> bool {
        matches!(self, Self::X8664 | Self::Aarch64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_abi_is_always_there_and_first() {
        assert_eq!(Abi::wanted(Abi::Aarch64, &[]), [Abi::Aarch64]);
        assert_eq!(Abi::wanted(Abi::Aarch64, &[Arch::ScmpArchArm]), [Abi::Aarch64, Abi::Arm]);
        assert_eq!(
            Abi::wanted(Abi::X8664, &[Arch::ScmpArchX32, Arch::ScmpArchX86, Arch::ScmpArchX86_64]),
            [Abi::X8664, Abi::X32, Abi::X86]
        );
    }

    #[test]
    fn architectures_of_other_machines_cost_nothing() {
        let named = [Arch::ScmpArchS390x, Arch::ScmpArchX86_64, Arch::ScmpArchNative, Arch::ScmpArchArm];
        assert_eq!(Abi::wanted(Abi::Arm, &named), [Abi::Arm]);
        assert_eq!(Abi::wanted(Abi::X8664, &named), [Abi::X8664]);
    }
}
