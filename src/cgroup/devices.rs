//! Device rules as data: the devices that a container may open or create.
//!
//! Rules are a list; for each of read, write and mknod the last matching rule decides, and an access that no rule
//! matches is denied. v2 gets exactly that ([`super::filter`]). The v1 kernel knows only one default and a set of
//! exceptions, so [`v1_writes`] converts the list to these or returns an error that names the rule v1 cannot express.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Result};

/// Creating a node with mknod(2): `m`.
pub(crate) const MKNOD: u8 = 1;
/// Opening for reading: `r`.
pub(crate) const READ: u8 = 2;
/// Opening for writing: `w`.
pub(crate) const WRITE: u8 = 4;
/// All three accesses.
pub(crate) const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device; the numbers are those of the kernel's `BPF_DEVCG_DEV_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `b`
    Block = 1,
    /// `c`
    Char = 2,
}

/// One rule; `None` is the wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// True if the rule allows or denies.
    pub allow: bool,
    /// Block or character; `None` for both.
    pub kind: Option<Kind>,
    /// The major number; `None` for every one.
    pub major: Option<u32>,
    /// The minor number; `None` for every one.
    pub minor: Option<u32>,
    /// The accesses that the rule covers: a set of `MKNOD`, `READ`, `WRITE`.
    pub access: u8,
}

impl Rule {
    const fn char(major: u32, minor: Option<u32>) -> Self {
        Self { allow: true, kind: Some(Kind::Char), major: Some(major), minor, access: ALL }
    }

    const fn mknod(kind: Kind) -> Self {
        Self { allow: true, kind: Some(kind), major: None, minor: None, access: MKNOD }
    }

    /// Returns whether it matches every device and access, so that no rule before it matters.
    fn is_total(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// The same rule, once for block and once for character devices.
    fn by_kind(self) -> impl Iterator<Item = Self> {
        [Kind::Block, Kind::Char]
            .into_iter()
            .filter(move |kind| self.kind.is_none_or(|own| own == *kind))
            .map(move |kind| Self { kind: Some(kind), ..self })
    }

    /// Returns whether `self` matches every device that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        self.kind.is_none_or(|v| other.kind == Some(v))
            && self.major.is_none_or(|v| other.major == Some(v))
            && self.minor.is_none_or(|v| other.minor == Some(v))
    }

    /// Returns whether some device matches both rules.
    fn overlaps(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
        }
        agree(self.kind, other.kind) && agree(self.major, other.major) && agree(self.minor, other.minor)
    }
}

/// Rules that every container gets, whatever the spec says: mknod, the five standard nodes, tty, ptmx, pts and tun; the
/// list that runc appends (its `AllowedDevices`), including tun, because existing programs rely on it.
pub(crate) const DEFAULT_ALLOWED: [Rule; 11] = [
    Rule::mknod(Kind::Char),
    Rule::mknod(Kind::Block),
    Rule::char(1, Some(3)),
    Rule::char(1, Some(8)),
    Rule::char(1, Some(7)),
    Rule::char(5, Some(0)),
    Rule::char(1, Some(5)),
    Rule::char(1, Some(9)),
    Rule::char(136, None),
    Rule::char(5, Some(2)),
    Rule::char(10, Some(200)),
];

/// The rules of `linux.resources.devices`, in their order, without the defaults.
///
/// # Errors
/// `Invalid`, naming the rule, for a type other than a, b, c, an access that is empty or has a letter other than r, w,
/// m, or a number outside 32 bits.
pub(crate) fn from_spec(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    devices.iter().enumerate().map(|(at, device)| rule_from_spec(at, device)).collect()
}

fn rule_from_spec(at: usize, device: &LinuxDeviceCgroup) -> Result<Rule> {
    let refused =
        |field: &str, why: String| Error::invalid(format!("linux.resources.devices[{at}].{field}: {why}"));
    let kind = match device.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C => Some(Kind::Char),
        other => return Err(refused("type", format!("{:?} is not one of a, b, c", other.as_str()))),
    };
    let number = |field: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| refused(field, format!("{value} is not a device number"))),
    };
    let text = device.access().as_deref().unwrap_or_default();
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            other => return Err(refused("access", format!("{other:?} is not one of r, w, m"))),
        };
    }
    if access == 0 {
        return Err(refused("access", "is empty: it takes r, w and m".to_owned()));
    }
    let (major, minor) = (number("major", device.major())?, number("minor", device.minor())?);
    Ok(Rule { allow: device.allow(), kind, major, minor, access })
}

/// The verdict where no rule matches, and the rules that can still change it: those after the last total rule, starting
/// with the first that contradicts the default.
pub(crate) fn simplified(rules: &[Rule]) -> (bool, &[Rule]) {
    let (default, rest) = match rules.iter().rposition(Rule::is_total) {
        Some(at) => (rules[at].allow, &rules[at + 1..]),
        None => (false, rules),
    };
    let idle = rest.iter().take_while(|rule| rule.allow == default).count();
    (default, &rest[idle..])
}

/// The writes, each a file and a value, that give a v1 devices cgroup these rules.
///
/// # Errors
/// `Unsupported` when a rule reverses part of an earlier wildcard rule: v1 cannot express that and ignores it silently.
pub(crate) fn v1_writes(rules: &[Rule]) -> Result<Vec<(&'static str, String)>> {
    let (default, exceptions) = exceptions(rules)?;
    let (reset, file) =
        if default { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
    let mut writes = vec![(reset, "a".to_owned())];
    writes.extend(exceptions.iter().map(|rule| (file, v1_text(rule))));
    Ok(writes)
}

/// The default and its exceptions: rules with the opposite verdict that never overlap in a way that matters.
pub(crate) fn exceptions(rules: &[Rule]) -> Result<(bool, Vec<Rule>)> {
    let (default, rest) = simplified(rules);
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rest.iter().copied().flat_map(Rule::by_kind) {
        if rule.allow == default {
            reverse(&mut exceptions, &rule)?;
        } else {
            add(&mut exceptions, rule);
        }
    }
    if !default {
        // The kernel requires all bits of an access in one exception, so a narrow exception repeats the bits of the
        // wide ones that cover it.
        let all = exceptions.clone();
        for narrow in &mut exceptions {
            narrow.access =
                all.iter().filter(|e| e.covers(narrow)).fold(narrow.access, |bits, e| bits | e.access);
        }
    }
    Ok((default, exceptions))
}

fn add(exceptions: &mut Vec<Rule>, rule: Rule) {
    let same = |e: &&mut Rule| (e.kind, e.major, e.minor) == (rule.kind, rule.major, rule.minor);
    match exceptions.iter_mut().find(same) {
        Some(exception) => exception.access |= rule.access,
        None => exceptions.push(rule),
    }
}

fn reverse(exceptions: &mut Vec<Rule>, rule: &Rule) -> Result<()> {
    for exception in exceptions.iter_mut() {
        if rule.covers(exception) {
            exception.access &= !rule.access;
        } else if rule.overlaps(exception) && exception.access & rule.access != 0 {
            let (part, whole) = (v1_text(rule), v1_text(exception));
            let doing = format!("linux.resources.devices: cgroup v1 cannot exclude {part:?} from {whole:?}");
            return Err(Error::new(crate::error::Kind::Unsupported, doing)
                .hint("name the devices one by one, or boot with cgroup v2"));
        }
    }
    exceptions.retain(|exception| exception.access != 0);
    Ok(())
}

/// `c 1:3 rwm`, as devices.allow and devices.deny take it.
fn v1_text(rule: &Rule) -> String {
    let kind = match rule.kind {
        Some(Kind::Block) => 'b',
        Some(Kind::Char) => 'c',
        None => 'a',
    };
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |v| v.to_string());
    format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), letters(rule.access))
}

/// The access set as letters, in runc's order.
pub(crate) fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reference implementation of a rule list's meaning.
    pub(crate) fn verdict(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let device =
            Rule { allow: true, kind: Some(kind), major: Some(major), minor: Some(minor), access: ALL };
        [MKNOD, READ, WRITE].iter().filter(|bit| access & **bit != 0).all(|bit| {
            rules.iter().rfind(|r| r.covers(&device) && r.access & bit != 0).is_some_and(|r| r.allow)
        })
    }

    prop_compose! {
        pub(crate) fn any_rule()(
            allow: bool,
            kind in prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))],
            major in prop::option::of(prop_oneof![0_u32..3, Just(u32::MAX)]),
            minor in prop::option::of(0_u32..3),
            access in 1_u8..=7,
        ) -> Rule {
            Rule { allow, kind, major, minor, access }
        }
    }

    fn spec(json: &str) -> Result<Vec<Rule>> {
        from_spec(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    #[test]
    fn the_default_spec_denies_all_but_the_default_devices() {
        let mut rules = spec(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
        rules.extend(DEFAULT_ALLOWED);
        let writes = v1_writes(&rules).unwrap();
        assert_eq!(writes[0], ("devices.deny", "a".to_owned()));
        assert_eq!(writes[1], ("devices.allow", "c *:* m".to_owned()));
        assert!(writes.contains(&("devices.allow", "c 136:* rwm".to_owned())));
        assert_eq!(writes.len(), 12);
        assert!(verdict(&rules, Kind::Char, 1, 3, READ | WRITE));
        assert!(!verdict(&rules, Kind::Block, 8, 0, READ));
        assert!(verdict(&rules, Kind::Block, 8, 0, MKNOD));
    }

    #[test]
    fn a_bad_rule_is_named() {
        for (json, field) in [
            (r#"[{"allow":true,"access":""}]"#, "devices[0].access"),
            (r#"[{"allow":true}]"#, "devices[0].access"),
            (r#"[{"allow":true,"access":"rx"}]"#, "devices[0].access"),
            (r#"[{"allow":true,"type":"p","access":"r"}]"#, "devices[0].type"),
            (r#"[{"allow":true,"access":"r"},{"allow":true,"major":-2,"access":"r"}]"#, "devices[1].major"),
            (r#"[{"allow":true,"minor":4294967296,"access":"r"}]"#, "devices[0].minor"),
        ] {
            assert!(spec(json).unwrap_err().to_string().contains(field), "{json}");
        }
    }

    #[test]
    fn minus_one_is_the_wildcard() {
        let rules = spec(r#"[{"allow":true,"type":"c","major":-1,"minor":-1,"access":"r"}]"#).unwrap();
        let all = Rule { allow: true, kind: Some(Kind::Char), major: None, minor: None, access: READ };
        assert_eq!(rules, [all]);
    }

    #[test]
    fn v1_refuses_a_denial_inside_a_wildcard_that_it_would_ignore() {
        let json = r#"[{"allow":true,"type":"c","major":1,"access":"rwm"},
                       {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]"#;
        let error = v1_writes(&spec(json).unwrap()).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Unsupported);
        assert!(error.to_string().contains("c 1:11 w"), "{error}");
    }

    proptest! {
        #[test]
        fn v1_writes_have_the_same_verdicts_as_the_list(
            rules in prop::collection::vec(any_rule(), 0..8),
            major in 0_u32..4, minor in 0_u32..4, access in 1_u8..=7,
        ) {
            if let Ok((default, exceptions)) = exceptions(&rules) {
                for kind in [Kind::Block, Kind::Char] {
                    // The kernel's rule: an access gets the opposite of the default where exceptions hold its bits;
                    // with default deny all bits must be excepted, with default allow none may be.
                    let device = Rule { allow: true, kind: Some(kind), major: Some(major), minor: Some(minor), access };
                    let excepted = exceptions.iter().filter(|e| e.covers(&device)).fold(0, |bits, e| bits | e.access);
                    let kernel = if default { excepted & access == 0 } else { access & !excepted == 0 };
                    prop_assert_eq!(kernel, verdict(&rules, kind, major, minor, access));
                }
            }
        }

        #[test]
        fn simplifying_changes_no_verdict(
            rules in prop::collection::vec(any_rule(), 0..8),
            major in 0_u32..4, minor in 0_u32..4, access in 1_u8..=7,
        ) {
            let (default, rest) = simplified(&rules);
            let mut short = vec![Rule { allow: default, kind: None, major: None, minor: None, access: ALL }];
            short.extend_from_slice(rest);
            for kind in [Kind::Block, Kind::Char] {
                prop_assert_eq!(
                    verdict(&short, kind, major, minor, access),
                    verdict(&rules, kind, major, minor, access)
                );
            }
        }
    }
}
