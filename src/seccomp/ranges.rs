//! Converts rules to number ranges: for each audit architecture, the decision for every number.

use super::abi::{ARM_PRIVATE, Abi, X32_BIT};
use super::profile::{Condition, Profile, Rule};
use super::table::{self, Multiplexed};
use super::verdict::NO_SUCH_CALL;

/// The verdict for calls of an architecture that the profile does not name. libseccomp's bad-arch action is
/// `SCMP_ACT_KILL`, and neither runc nor crun changes it.
pub(super) const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// The ranges of one audit architecture.
#[derive(Debug)]
pub(super) struct Section {
    /// `AUDIT_ARCH_*`.
    pub(super) audit: u32,
    /// Sorted; the first starts at 0, each ends where the next starts, and neighbours differ.
    pub(super) ranges: Vec<Range>,
}

/// The numbers from `start` up to the next range.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) decision: Decision,
}

/// The decision for a call.
#[derive(Debug)]
pub(super) enum Decision {
    /// The verdict.
    Verdict(u32),
    /// The arguments decide.
    Chain(Chain),
}

/// Alternatives in the order of the profile: the first that is true decides, else `otherwise`.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) alternatives: Vec<Alternative>,
    pub(super) otherwise: u32,
    pub(super) is_64_bit: bool,
}

/// Conditions that must all be true, and the verdict in that case.
#[derive(Debug)]
pub(super) struct Alternative {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: u32,
}

/// One section per audit architecture of `abis`, in their order.
pub(super) fn sections(profile: &Profile, abis: &[Abi]) -> Vec<Section> {
    let numbered = |abi| Numbered::new(profile, abi);
    let mut sections = Vec::with_capacity(abis.len());
    for abi in abis.iter().copied().filter(|abi| *abi != Abi::X32) {
        let mut ranges = Ranges(Vec::with_capacity(256));
        numbered(abi).lay_out(profile, &mut ranges);
        if abi == Abi::X8664 {
            // x32 shares the audit architecture. Number -1 is not an x32 call: a tracer sets it to skip a call.
            if abis.contains(&Abi::X32) {
                numbered(Abi::X32).lay_out(profile, &mut ranges);
            } else {
                ranges.push(X32_BIT, Decision::Verdict(BAD_ARCH));
                ranges.push(u32::MAX, Decision::Verdict(profile.default));
            }
        }
        sections.push(Section { audit: abi.audit(), ranges: ranges.0 });
    }
    sections
}

/// The rules of a profile by number, for one ABI.
struct Numbered<'a> {
    abi: Abi,
    /// Sorted by number, then by position in the profile.
    entries: Vec<Entry<'a>>,
    /// The greatest number in the profile, and the greatest below Arm's private ones.
    greatest: Option<u32>,
    greatest_ordinary: Option<u32>,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    number: u32,
    rule: &'a Rule,
    through: Option<Multiplexed>,
}

impl<'a> Numbered<'a> {
    fn new(profile: &'a Profile, abi: Abi) -> Self {
        let mut entries = Vec::with_capacity(512);
        let (mut greatest, mut greatest_ordinary) = (None, None);
        let multiplexers = Multiplexers::of(abi);
        for rule in &profile.rules {
            // A rule with the default's verdict is left out, as in runc: it does not even hide later rules. But its
            // numbers count as known.
            let differs = rule.verdict != profile.default;
            for row in &rule.rows {
                let behind = row.multiplexed().and_then(|way| Some((multiplexers.number(way)?, Some(way))));
                let direct = row.number(abi).map(|number| (number, None));
                for (number, through) in behind.into_iter().chain(direct) {
                    greatest = greatest.max(Some(number));
                    if abi != Abi::Arm || number < ARM_PRIVATE {
                        greatest_ordinary = greatest_ordinary.max(Some(number));
                    }
                    if differs {
                        entries.push(Entry { number, rule, through });
                    }
                }
            }
        }
        entries.sort_by_key(|entry| entry.number);
        Self { abi, entries, greatest, greatest_ordinary }
    }

    /// Appends the ranges of this ABI to `ranges`.
    fn lay_out(&self, profile: &Profile, ranges: &mut Ranges) {
        ranges.push(self.abi.number_bits(), Decision::Verdict(profile.default));
        let young = self.greatest_ordinary.or(self.greatest).filter(|_| profile.hides_newer_calls);
        let is_private = |entry: &Entry<'_>| self.abi == Abi::Arm && entry.number >= ARM_PRIVATE;
        let (ordinary, private) =
            self.entries.split_at(self.entries.partition_point(|entry| !is_private(entry)));
        self.lay_out_entries(ordinary, profile, ranges);
        if let (Some(_), Some(greatest)) = (young, self.greatest_ordinary) {
            ranges.push(greatest + 1, Decision::Verdict(NO_SUCH_CALL));
        }
        if self.greatest > self.greatest_ordinary {
            ranges.push(ARM_PRIVATE, Decision::Verdict(profile.default));
        }
        self.lay_out_entries(private, profile, ranges);
        if let (Some(_), Some(greatest)) = (young, self.greatest) {
            ranges.push(greatest + 1, Decision::Verdict(NO_SUCH_CALL));
        }
    }

    fn lay_out_entries(&self, entries: &[Entry<'_>], profile: &Profile, ranges: &mut Ranges) {
        for same in entries.chunk_by(|a, b| a.number == b.number) {
            let number = same[0].number;
            ranges.push(number, self.decision(same, profile.default));
            ranges.push(number + 1, Decision::Verdict(profile.default));
        }
    }

    /// Merges the rules for one number. A rule without conditions overrides all others, wherever it is: libseccomp
    /// keeps the widest rule. Between rules with conditions the first true one in the profile decides.
    fn decision(&self, entries: &[Entry<'_>], otherwise: u32) -> Decision {
        let is_64_bit = self.abi.is_64_bit();
        let mut alternatives = Vec::new();
        for entry in entries {
            for conditions in &entry.rule.alternatives {
                let mut conditions: Vec<_> =
                    conditions.iter().copied().filter(|condition| !condition.is_void(is_64_bit)).collect();
                if let Some(way) = entry.through {
                    conditions.retain(|condition| condition.arg != 0);
                    conditions.insert(0, way.condition());
                }
                if conditions.is_empty() {
                    return Decision::Verdict(entry.rule.verdict);
                }
                alternatives.push(Alternative { conditions, verdict: entry.rule.verdict });
            }
        }
        Decision::Chain(Chain { alternatives, otherwise, is_64_bit })
    }
}

/// socketcall(2) and ipc(2) of 32-bit x86: one number for many calls, distinguished by the first argument. A rule for
/// `socket` must also apply to programs that use this older way. The other arguments are behind a pointer, which no
/// filter can read; libseccomp, too, drops the condition on argument 0 and keeps the rest.
struct Multiplexers {
    socketcall: Option<u32>,
    ipc: Option<u32>,
}

impl Multiplexers {
    fn of(abi: Abi) -> Self {
        let number =
            |name| if abi == Abi::X86 { table::find(name).and_then(|row| row.number(abi)) } else { None };
        Self { socketcall: number("socketcall"), ipc: number("ipc") }
    }

    fn number(&self, way: Multiplexed) -> Option<u32> {
        match way {
            Multiplexed::Socket(_) => self.socketcall,
            Multiplexed::Ipc(_) => self.ipc,
        }
    }
}

impl Multiplexed {
    /// The condition on the multiplexer's first argument for this call. ipc(2) has a version in the upper half.
    fn condition(self) -> Condition {
        match self {
            Self::Socket(call) => Condition::equals(0, u64::from(call)),
            Self::Ipc(call) => Condition::masked(0, 0xffff, u64::from(call)),
        }
    }
}

/// Ranges under construction, sorted by start.
struct Ranges(Vec<Range>);

impl Ranges {
    /// Sets the decision for all numbers from `start` on.
    fn push(&mut self, start: u32, decision: Decision) {
        debug_assert!(self.0.last().is_none_or(|last| last.start <= start), "ranges are laid out in order");
        self.0.pop_if(|last| last.start == start);
        if let (Some(Range { decision: Decision::Verdict(last), .. }), Decision::Verdict(new)) =
            (self.0.last(), &decision)
            && last == new
        {
            return;
        }
        self.0.push(Range { start, decision });
    }
}
