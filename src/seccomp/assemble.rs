//! Assembles number ranges to instructions.
//!
//! The program checks the architecture, jumps to its section, and finds the number's range by binary search: with n
//! ranges at most log2(n) comparisons, for every call. It uses only the instructions that the kernel interprets at
//! installation to find the calls that are always allowed (`seccomp_is_const_allow`, KERNEL(5.11)); those calls never
//! run the filter.
//!
//! Jumps go only forward, and conditional ones at most 255 instructions, so code is emitted from its end: the target of
//! a jump is known when the jump is emitted.

use libc::sock_filter;
use seccompiler::{
    BpfProgram, SeccompCmpArgLen as Length, SeccompCmpOp as Compare, SeccompCondition, SeccompRule,
};

use super::profile::Condition;
use super::ranges::{BAD_ARCH, Chain, Decision, Range, Section};
use crate::error::{Error, Kind, Result};
use oci_spec::runtime::LinuxSeccompOperator as Operator;

/// The most instructions the kernel accepts: `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JUMP_NOT_LESS: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The program for `sections`, in their order: the most frequent architecture should be first.
///
/// # Errors
/// `Invalid` when it has more instructions than the kernel accepts.
pub(super) fn program(sections: &[Section]) -> Result<Vec<sock_filter>> {
    let mut code = Backwards { reversed: Vec::with_capacity(1024), returns: Vec::new() };
    let mut entries = Vec::with_capacity(sections.len());
    for section in sections.iter().rev() {
        let ranges = code.search(&section.ranges)?;
        entries.push((section.audit, code.load_before(NUMBER, ranges)));
    }
    let mut next = code.put(RETURN, 0, 0, BAD_ARCH);
    for (audit, section) in entries {
        next = code.branch(JUMP_EQUAL, audit, section, next);
    }
    code.load_before(ARCH, next);
    code.finish()
}

/// The position of an emitted instruction, counted from the end of the program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

struct Backwards {
    reversed: Vec<sock_filter>,
    /// The last emitted return of each verdict.
    returns: Vec<(u32, Label)>,
}

impl Backwards {
    /// Emits an instruction in front of all others.
    fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(sock_filter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// The jump distance from the next instruction to `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    /// A label with the same effect as `label` that a conditional jump can still reach after one more instruction.
    fn near(&mut self, label: Label) -> Label {
        let distance = self.distance(label);
        if distance < usize::from(u8::MAX) {
            return label;
        }
        match self.reversed[label.0] {
            sock_filter { code: RETURN, k, .. } => self.put_return(k),
            _ => self.put(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX)),
        }
    }

    /// Emits a conditional jump: to `yes` when comparing with `k` is true, else to `no`.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // A nearer label for `no` can add an instruction; near() leaves room for it.
        let yes = self.near(yes);
        let no = self.near(no);
        let [jt, jf] = [yes, no].map(|label| u8::try_from(self.distance(label)).unwrap_or(u8::MAX));
        self.put(code, jt, jf, k)
    }

    /// Emits a load of the word at `offset`, then continues at `label`.
    fn load_before(&mut self, offset: u32, label: Label) -> Label {
        let distance = self.distance(label);
        if distance > 0 {
            self.put(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        }
        self.put(LOAD, 0, 0, offset)
    }

    fn put_return(&mut self, verdict: u32) -> Label {
        let label = self.put(RETURN, 0, 0, verdict);
        self.returns.retain(|(other, _)| *other != verdict);
        self.returns.push((verdict, label));
        label
    }

    /// A return of `verdict`: an emitted one that is near enough, else a new one.
    fn return_of(&mut self, verdict: u32) -> Label {
        match self.returns.iter().find(|(other, _)| *other == verdict) {
            Some((_, label)) => self.near(*label),
            None => self.put_return(verdict),
        }
    }

    /// Emits the binary search for the range of the loaded number.
    fn search(&mut self, ranges: &[Range]) -> Result<Label> {
        if let [only] = ranges {
            return match &only.decision {
                Decision::Verdict(verdict) => Ok(self.return_of(*verdict)),
                Decision::Chain(chain) => self.decide(chain),
            };
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let Some(first) = high.first() else {
            return Err(Error::new(Kind::Bug, "a seccomp section without a range"));
        };
        let yes = self.search(high)?;
        let no = self.search(low)?;
        Ok(self.branch(JUMP_NOT_LESS, first.start, yes, no))
    }

    /// Emits the checks of the alternatives of `chain`, in their order.
    fn decide(&mut self, chain: &Chain) -> Result<Label> {
        let mut first = self.put_return(chain.otherwise);
        for alternative in chain.alternatives.iter().rev() {
            // seccompiler's rule falls through to the next instruction when it matches, and skips it otherwise.
            self.put_return(alternative.verdict);
            for instruction in conditions(&alternative.conditions, chain.is_64_bit)?.iter().rev() {
                first = self.put(instruction.code, instruction.jt, instruction.jf, instruction.k);
            }
        }
        Ok(first)
    }

    fn finish(mut self) -> Result<Vec<sock_filter>> {
        let len = self.reversed.len();
        if len > MAX_INSTRUCTIONS {
            return Err(Error::invalid(format!("seccomp profile needs {len} instructions")).hint(format!(
                "the kernel accepts {MAX_INSTRUCTIONS}; name fewer architectures or compare fewer arguments"
            )));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }
}

/// The comparisons of arguments, generated by seccompiler.
fn conditions(conditions: &[Condition], is_64_bit: bool) -> Result<BpfProgram> {
    let build = || {
        let conditions = conditions.iter().map(|condition| {
            let length = if is_64_bit { Length::Qword } else { Length::Dword };
            SeccompCondition::new(condition.arg, length, compare(condition), condition.value)
        });
        SeccompRule::new(conditions.collect::<Result<_, _>>()?)
    };
    let rule = build().map_err(|error| Error::new(Kind::Bug, "build a seccomp rule").because(error))?;
    Ok(rule.into())
}

fn compare(condition: &Condition) -> Compare {
    match condition.operator {
        Operator::ScmpCmpNe => Compare::Ne,
        Operator::ScmpCmpLt => Compare::Lt,
        Operator::ScmpCmpLe => Compare::Le,
        Operator::ScmpCmpEq => Compare::Eq,
        Operator::ScmpCmpGe => Compare::Ge,
        Operator::ScmpCmpGt => Compare::Gt,
        Operator::ScmpCmpMaskedEq => Compare::MaskedEq(condition.mask),
    }
}
