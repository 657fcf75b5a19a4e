//! Interprets the part of the kernel's classic BPF that filters may use: enough to run the compiler's output, and as
//! strict as the kernel's checker.

use libc::sock_filter;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Data {
    pub(super) fn new(arch: u32, number: u32, args: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Self { number, arch, args: all }
    }

    /// The aligned word at `offset`, as a little-endian kernel lays it out.
    fn word(&self, offset: u32) -> u32 {
        assert_eq!(offset % 4, 0, "loads are aligned");
        match offset / 4 {
            0 => self.number,
            1 => self.arch,
            2 | 3 => 0x5555_aaaa, // the instruction pointer: no program should look at it
            word => {
                let arg = self.args[usize::try_from(word - 4).unwrap() / 2];
                u32::try_from(if word % 2 == 0 { arg & 0xffff_ffff } else { arg >> 32 }).unwrap()
            }
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) verdict: u32,
    /// The instructions executed, and the conditional jumps among them.
    pub(super) steps: usize,
    pub(super) comparisons: usize,
}

pub(super) fn run(program: &[sock_filter], data: &Data) -> Run {
    let (mut accumulator, mut at, mut steps, mut comparisons) = (0_u32, 0_usize, 0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        steps += 1;
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => (at, comparisons) = (at + jump(accumulator == k), comparisons + 1),
            0x25 => (at, comparisons) = (at + jump(accumulator > k), comparisons + 1),
            0x35 => (at, comparisons) = (at + jump(accumulator >= k), comparisons + 1),
            0x45 => (at, comparisons) = (at + jump(accumulator & k != 0), comparisons + 1),
            0x06 => return Run { verdict: k, steps, comparisons },
            other => panic!("instruction {other:#x} at {}", at - 1),
        }
    }
}

/// The checks of the kernel's bpf_check_classic and seccomp_check_filter.
pub(super) fn check(program: &[sock_filter]) {
    assert!((1..=4096).contains(&program.len()), "{} instructions", program.len());
    for (at, sock_filter { code, jt, jf, k }) in program.iter().enumerate() {
        match code {
            0x20 => assert!(*k < 64 && k % 4 == 0, "load of {k} at {at}"),
            0x05 => assert!(at + 1 + usize::try_from(*k).unwrap() < program.len(), "jump out at {at}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                assert!(at + 1 + usize::from(*jt.max(jf)) < program.len(), "branch out at {at}");
            }
            0x54 | 0x06 => {}
            other => panic!("instruction {other:#x} at {at}"),
        }
    }
    assert_eq!(program.last().unwrap().code, 0x06, "the last instruction returns");
}
