//! Platforms: of this machine, of images, and the choice of the image that suits best.

pub use crate::store::Platform;

use crate::error::{Error, Kind, Result};

/// The platform that this program was built for, with the CPU's generation on 32-bit ARM.
///
/// A 32-bit program on a 64-bit kernel returns its own platform: images must fit that userland.
pub fn host() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    };
    let variant = (architecture == "arm")
        .then(|| std::fs::read_to_string("/proc/cpuinfo").ok().as_deref().and_then(arm_variant))
        .flatten();
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
}

/// The generation of an ARM CPU, from `/proc/cpuinfo`.
fn arm_variant(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    // The kernel of a Pi Zero or Pi 1 reports 7 although the CPU is an ARMv6, on which v7 code dies of SIGILL.
    let is_v6 = ["model name", "Processor"]
        .iter()
        .any(|name| field(name).is_some_and(|model| model.contains("ARMv6-compatible")));
    if is_v6 {
        return Some("v6".to_owned());
    }
    let number: String = field("CPU architecture")?.chars().take_while(char::is_ascii_digit).collect();
    matches!(number.as_str(), "5" | "6" | "7" | "8").then(|| format!("v{number}"))
}

/// Parses `[os/]arch[/variant]`, in the terms of Go or of uname(1).
///
/// # Errors
/// `Invalid` when it has another form.
pub fn parse(text: &str) -> Result<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [arch] => ("linux", *arch, None),
        // No architecture is named v and a number.
        [arch, variant] if is_generation(variant) => ("linux", *arch, Some((*variant).to_owned())),
        [os, arch] => (*os, *arch, None),
        [os, arch, variant] => (*os, *arch, Some((*variant).to_owned())),
        _ => return Err(malformed(text)),
    };
    let is_word = |word: &str| {
        word.len() <= 32
            && word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if !parts.iter().all(|part| is_word(part)) || architecture == "linux" {
        return Err(malformed(text));
    }
    Ok(normal(&Platform { os: os.to_lowercase(), architecture: architecture.to_lowercase(), variant }))
}

fn is_generation(word: &str) -> bool {
    word.strip_prefix('v')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn malformed(text: &str) -> Error {
    let short: String = text.chars().take(60).collect();
    Error::invalid(format!("platform {short:?} is not [os/]arch[/variant]"))
        .hint("for example linux/arm64, linux/arm/v7 or amd64")
}

/// The same platform in Go's terms.
fn normal(platform: &Platform) -> Platform {
    let variant = platform.variant.as_deref().filter(|variant| !variant.is_empty());
    let (architecture, variant) = match (platform.architecture.as_str(), variant) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64", variant) => ("arm64", variant),
        ("i386" | "i486" | "i586" | "i686", variant) => ("386", variant),
        ("armhf" | "armv7l" | "armv7", None) => ("arm", Some("v7")),
        ("armel" | "armv6l" | "armv6", None) => ("arm", Some("v6")),
        (architecture, variant) => (architecture, variant),
    };
    let variant = match (architecture, variant) {
        // These variants add nothing to the architecture.
        ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
        ("arm", Some(number @ ("5" | "6" | "7" | "8"))) => Some(format!("v{number}")),
        (_, variant) => variant.map(str::to_owned),
    };
    Platform { os: platform.os.clone(), architecture: architecture.to_owned(), variant }
}

/// How well an image for `offered` suits `wanted`: 0 is best, `None` does not run.
pub fn rank(offered: &Platform, wanted: &Platform) -> Option<u32> {
    let (offered, wanted) = (normal(offered), normal(wanted));
    if offered.os != wanted.os {
        return None;
    }
    let generation = |platform: &Platform| -> Option<u32> {
        platform.variant.as_deref()?.strip_prefix('v')?.parse().ok().filter(|n| *n < 100)
    };
    match (wanted.architecture.as_str(), offered.architecture.as_str()) {
        // 64-bit ARM also runs 32-bit images, the newest generation first, but prefers its own.
        ("arm64", "arm") => Some(1000 + arm_rank(8, generation(&offered))?),
        ("arm", "arm") => {
            let own = if wanted.variant.is_some() { generation(&wanted)? } else { PLAIN_ARM };
            arm_rank(own, generation(&offered))
        }
        (want, offer) if want != offer => None,
        _ if offered.variant == wanted.variant => Some(0),
        // A wanted platform without a generation accepts any.
        _ if wanted.variant.is_none() => Some(1 + generation(&offered).unwrap_or(100)),
        // An image for any generation, or for an older one, runs on a newer.
        _ if offered.variant.is_none() => Some(200),
        _ => generation(&wanted)?.checked_sub(generation(&offered)?),
    }
}

/// The generation of 32-bit ARM without a variant, as in containerd and docker.
const PLAIN_ARM: u32 = 7;

/// 32-bit ARM: the own generation, then older ones down to v5. An image without a generation comes right after those
/// for [`PLAIN_ARM`], and after all others on a CPU that is older.
fn arm_rank(wanted: u32, offered: Option<u32>) -> Option<u32> {
    match offered {
        None => Some(wanted.checked_sub(PLAIN_ARM).map_or(200, |older| 2 * older + 1)),
        Some(offered) if offered >= 5 => Some(2 * wanted.checked_sub(offered)?),
        Some(_) => None,
    }
}

/// The index of the best of `offered` for `wanted`: the first of equals.
pub fn choose(offered: &[Platform], wanted: &Platform) -> Option<usize> {
    let ranked = offered.iter().enumerate().filter_map(|(index, one)| Some((rank(one, wanted)?, index)));
    ranked.min().map(|(_, index)| index)
}

/// The error when none fits; it lists the available platforms.
pub(super) fn none_fits(wanted: &Platform, offered: &[Platform]) -> Error {
    let mut list: Vec<String> = offered.iter().map(ToString::to_string).collect();
    list.sort();
    list.dedup();
    Error::new(Kind::NotFound, format!("no image for {wanted}; available: {}", list.join(", ")))
        .hint("choose one of these with --platform")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(offered: &[&str], wanted: &str) -> Option<String> {
        let offered: Vec<Platform> = offered.iter().map(|text| parse(text).unwrap()).collect();
        choose(&offered, &parse(wanted).unwrap()).map(|index| offered[index].to_string())
    }

    #[test]
    fn every_arm_takes_the_newest_it_can_run() {
        let all = ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm64/v8", "linux/amd64"];
        assert_eq!(chosen(&all, "linux/arm64").unwrap(), "linux/arm64");
        assert_eq!(chosen(&all, "linux/arm/v7").unwrap(), "linux/arm/v7");
        assert_eq!(chosen(&all, "linux/arm/v6").unwrap(), "linux/arm/v6");
        assert_eq!(chosen(&all[..2], "linux/arm/v6").unwrap(), "linux/arm/v5");
        assert_eq!(chosen(&all[..3], "linux/arm64").unwrap(), "linux/arm/v7");
        assert_eq!(chosen(&["linux/arm", "arm/v5"], "linux/arm/v6").unwrap(), "linux/arm/v5");
        assert_eq!(chosen(&["linux/arm"], "linux/arm/v6").unwrap(), "linux/arm");
        assert_eq!(chosen(&["linux/arm/v7"], "linux/arm/v6"), None, "SIGILL on a Pi Zero");
        assert_eq!(chosen(&["linux/arm/v7"], "linux/arm").unwrap(), "linux/arm/v7");
        for same in ["linux/arm", "arm", "armhf", "linux/arm/7"] {
            assert_eq!(chosen(&all, same).unwrap(), "linux/arm/v7", "{same}");
            assert_eq!(chosen(&["arm/v5", "arm/v6"], same).unwrap(), "linux/arm/v6", "{same}");
            assert_eq!(chosen(&["arm/v6", "arm"], same).unwrap(), "linux/arm", "{same}");
            assert_eq!(chosen(&["arm", "arm/v7"], same).unwrap(), "linux/arm/v7", "{same}");
            assert_eq!(chosen(&["arm/v8"], same), None, "{same}");
        }
        assert_eq!(chosen(&["linux/arm64"], "linux/arm/v8"), None);
        assert_eq!(chosen(&["windows/amd64"], "linux/amd64"), None);
    }

    #[test]
    fn amd64_generations_run_on_newer_ones_only() {
        assert_eq!(chosen(&["linux/amd64/v3", "linux/amd64"], "linux/amd64").unwrap(), "linux/amd64");
        assert_eq!(chosen(&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3").unwrap(), "linux/amd64/v2");
        assert_eq!(chosen(&["linux/amd64/v4"], "linux/amd64/v3"), None);
    }

    #[test]
    fn common_spellings_are_parsed() {
        for (text, meant) in [
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("armhf", "linux/arm/v7"),
            ("arm/v6", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("freebsd/amd64", "freebsd/amd64"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), meant);
        }
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/../x", "linux/arm /v7"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pi_zero_is_a_v6_whatever_its_kernel_says() {
        let zero =
            "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n";
        assert_eq!(arm_variant(zero).as_deref(), Some("v6"));
        let two = "model name\t: ARMv7 Processor rev 5 (v7l)\nCPU architecture: 7\n";
        assert_eq!(arm_variant(two).as_deref(), Some("v7"));
        assert_eq!(arm_variant("CPU architecture: 8\n").as_deref(), Some("v8"));
        assert_eq!(arm_variant("CPU architecture: 5TEJ\n").as_deref(), Some("v5"));
        assert_eq!(arm_variant("processor: 0\n"), None);
        assert_eq!(host().os, "linux");
    }
}
