//! From rules to number ranges: for each audit architecture, which numbers get which answer.

use super::abi::{ARM_PRIVATE, Abi, X32_BIT};
use super::profile::{Condition, Profile, Rule};
use super::table::{self, Multiplexed};
use super::verdict::NO_SUCH_CALL;

/// The answer to calls of an architecture the profile does not name. libseccomp's bad-arch action is `SCMP_ACT_KILL`,
/// and neither runc nor crun changes it.
pub(super) const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// All numbers with one audit architecture.
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
    pub(super) answer: Answer,
}

/// What happens to a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// It gets this verdict.
    Verdict(u32),
    /// Its arguments decide.
    Chain(Chain),
}

/// Alternatives in the order of the profile: the first one that holds decides, `otherwise` if none does.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) alternatives: Vec<Alternative>,
    pub(super) otherwise: u32,
    pub(super) is_64_bit: bool,
}

/// Conditions that must hold together, and the verdict then.
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
            // x32 shares the audit architecture. Number -1 is no x32 call: a tracer sets it to skip a call.
            if abis.contains(&Abi::X32) {
                numbered(Abi::X32).lay_out(profile, &mut ranges);
            } else {
                ranges.push(X32_BIT, Answer::Verdict(BAD_ARCH));
                ranges.push(u32::MAX, Answer::Verdict(profile.default));
            }
        }
        sections.push(Section { audit: abi.audit(), ranges: ranges.0 });
    }
    sections
}

/// The rules of a profile by number, for one ABI.
struct Numbered<'a> {
    abi: Abi,
    /// Sorted by number, then by place in the profile.
    entries: Vec<Entry<'a>>,
    /// The greatest number the profile knows, and the greatest below Arm's private ones.
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
            // A rule that says what the default says is left out, as runc does: it does not even hide later rules. Its
            // numbers count as known nevertheless.
            let is_news = rule.verdict != profile.default;
            for row in &rule.rows {
                let behind = row.multiplexed().and_then(|way| Some((multiplexers.number(way)?, Some(way))));
                let direct = row.number(abi).map(|number| (number, None));
                for (number, through) in behind.into_iter().chain(direct) {
                    greatest = greatest.max(Some(number));
                    if abi != Abi::Arm || number < ARM_PRIVATE {
                        greatest_ordinary = greatest_ordinary.max(Some(number));
                    }
                    if is_news {
                        entries.push(Entry { number, rule, through });
                    }
                }
            }
        }
        entries.sort_by_key(|entry| entry.number);
        Self { abi, entries, greatest, greatest_ordinary }
    }

    /// Appends this ABI's numbers to `ranges`.
    fn lay_out(&self, profile: &Profile, ranges: &mut Ranges) {
        ranges.push(self.abi.number_bits(), Answer::Verdict(profile.default));
        let young = self.greatest_ordinary.or(self.greatest).filter(|_| profile.hides_young_calls);
        let is_private = |entry: &Entry<'_>| self.abi == Abi::Arm && entry.number >= ARM_PRIVATE;
        let (ordinary, private) =
            self.entries.split_at(self.entries.partition_point(|entry| !is_private(entry)));
        self.lay_out_entries(ordinary, profile, ranges);
        if let (Some(_), Some(greatest)) = (young, self.greatest_ordinary) {
            ranges.push(greatest + 1, Answer::Verdict(NO_SUCH_CALL));
        }
        if self.greatest > self.greatest_ordinary {
            ranges.push(ARM_PRIVATE, Answer::Verdict(profile.default));
        }
        self.lay_out_entries(private, profile, ranges);
        if let (Some(_), Some(greatest)) = (young, self.greatest) {
            ranges.push(greatest + 1, Answer::Verdict(NO_SUCH_CALL));
        }
    }

    fn lay_out_entries(&self, entries: &[Entry<'_>], profile: &Profile, ranges: &mut Ranges) {
        for same in entries.chunk_by(|a, b| a.number == b.number) {
            let number = same[0].number;
            ranges.push(number, self.answer(same, profile.default));
            ranges.push(number + 1, Answer::Verdict(profile.default));
        }
    }

    /// Joins the rules for one number. One without conditions beats all others, wherever it stands: libseccomp keeps the
    /// widest rule. Between rules with conditions the first in the profile that holds decides.
    fn answer(&self, entries: &[Entry<'_>], otherwise: u32) -> Answer {
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
                    return Answer::Verdict(entry.rule.verdict);
                }
                alternatives.push(Alternative { conditions, verdict: entry.rule.verdict });
            }
        }
        Answer::Chain(Chain { alternatives, otherwise, is_64_bit })
    }
}

/// socketcall(2) and ipc(2) of 32-bit x86: one number for many calls, told apart by the first argument. A rule for
/// `socket` must also hold for programs that take this older way. What lies behind the pointer in the other arguments no
/// filter can see; libseccomp, too, drops the condition on argument 0 and keeps the rest.
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
    /// How the call shows in the multiplexer's first argument. ipc(2) has a version in the upper half.
    fn condition(self) -> Condition {
        match self {
            Self::Socket(call) => Condition::equals(0, u64::from(call)),
            Self::Ipc(call) => Condition::masked(0, 0xffff, u64::from(call)),
        }
    }
}

/// Ranges under construction: starts never fall.
struct Ranges(Vec<Range>);

impl Ranges {
    /// From `start` on it is `answer`, whatever stood there so far.
    fn push(&mut self, start: u32, answer: Answer) {
        debug_assert!(self.0.last().is_none_or(|last| last.start <= start), "ranges are laid out in order");
        self.0.pop_if(|last| last.start == start);
        if let (Some(Range { answer: Answer::Verdict(last), .. }), Answer::Verdict(new)) =
            (self.0.last(), &answer)
            && last == new
        {
            return;
        }
        self.0.push(Range { start, answer });
    }
}
