//! bpf(2), as far as a cgroup's device filter needs it: load, attach, query and detach programs.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::Error;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;

/// The kernel attaches at most 64 programs to one cgroup.
const MAX_ATTACHED: usize = 64;
/// The verifier returns `EAGAIN` when a signal interrupts it; the load is then retried this often.
const MAX_INTERRUPTIONS: u32 = 30;

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation and class.
    pub code: u8,
    registers: u8,
    /// Jump distance, or the offset of a load.
    pub off: i16,
    /// The immediate operand.
    pub imm: i32,
}

impl Insn {
    /// `dst` and `src` are register numbers, 0 to 10.
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        // The two nibbles are C bit fields, whose order is reversed on big-endian machines.
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Self { code, registers, off, imm }
    }

    /// The destination register.
    pub const fn dst(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers & 15 } else { self.registers >> 4 }
    }

    /// The source register.
    pub const fn src(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers >> 4 } else { self.registers & 15 }
    }
}

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    prog_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The whole query part of the union: KERNEL(6.17) writes `revision` back whatever size was passed.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Loads `program` as a cgroup device filter.
///
/// # Errors
/// `EPERM` without `CAP_BPF` (before 5.8 `CAP_SYS_ADMIN`) or, before 5.11, when `RLIMIT_MEMLOCK` is used up. `EINVAL`
/// and `EACCES` when the verifier rejects the program; the last line of its log is then part of the message.
pub fn load_device_filter(program: &[Insn]) -> Result<OwnedFd, Error> {
    let call = |detail: &str| format!("bpf(PROG_LOAD, CGROUP_DEVICE, {} insns{detail})", program.len());
    let count = u32::try_from(program.len()).map_err(|_| Error::new(call(""), Errno::TOOBIG))?;
    let mut name = [0_u8; 16];
    name[..11].copy_from_slice(b"coracle_dev");
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: address(program.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        prog_name: name,
        ..LoadAttr::default()
    };
    let refused = match load(&mut attr) {
        Ok(fd) => return Ok(fd),
        Err(errno @ (Errno::INVAL | Errno::ACCESS)) => errno,
        Err(errno) => return Err(Error::new(call(""), errno)),
    };
    // The verifier's log costs time, so it is requested only for a program that was rejected.
    let mut log = vec![0_u8; 64 * 1024];
    attr.log_level = 1;
    attr.log_size = 64 * 1024;
    attr.log_buf = address(log.as_mut_ptr());
    load(&mut attr).map_err(|_| {
        let text = String::from_utf8_lossy(&log);
        let last_line = text.split('\0').next().and_then(|t| t.trim_end().lines().last()).unwrap_or_default();
        Error::new(call(&format!(", verifier: {last_line:?}")), refused)
    })
}

fn load(attr: &mut LoadAttr) -> Result<OwnedFd, Errno> {
    let mut interruptions = 0;
    loop {
        match bpf_fd(PROG_LOAD, attr) {
            Err(Errno::AGAIN) if interruptions < MAX_INTERRUPTIONS => interruptions += 1,
            other => return other,
        }
    }
}

/// Attaches `program` to the cgroup in addition to those already attached: each of them must allow an access.
///
/// # Errors
/// The errno of bpf(2) for `BPF_PROG_ATTACH`.
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup.as_raw_fd()),
        prog_fd: number(program.as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attr)
        .map(drop)
        .map_err(|errno| Error::new(format!("bpf(PROG_ATTACH, cgroup fd {})", cgroup.as_raw_fd()), errno))
}

/// Detaches `program` from the cgroup.
///
/// # Errors
/// `ENOENT` when it is not attached; else the errno of bpf(2) for `BPF_PROG_DETACH`.
pub fn detach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup.as_raw_fd()),
        prog_fd: number(program.as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    };
    bpf(PROG_DETACH, &mut attr)
        .map(drop)
        .map_err(|errno| Error::new(format!("bpf(PROG_DETACH, cgroup fd {})", cgroup.as_raw_fd()), errno))
}

/// The device filters attached to the cgroup itself, not to its ancestors. Programs that a security module hides from
/// this process are left out.
///
/// # Errors
/// The errno of bpf(2) for `BPF_PROG_QUERY`, which needs a descriptor that is not `O_PATH`.
pub fn attached_device_filters(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Error> {
    let mut ids = [0_u32; MAX_ATTACHED];
    let mut attr = QueryAttr {
        target_fd: number(cgroup.as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: address(ids.as_mut_ptr()),
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)
        .map_err(|errno| Error::new(format!("bpf(PROG_QUERY, cgroup fd {})", cgroup.as_raw_fd()), errno))?;
    let count = usize::try_from(attr.prog_cnt).unwrap_or(MAX_ATTACHED);
    let mut filters = Vec::new();
    for &id in ids.iter().take(count) {
        match bpf_fd(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() }) {
            Ok(fd) => filters.push(fd),
            Err(Errno::PERM | Errno::ACCESS | Errno::NOENT) => {}
            Err(errno) => return Err(Error::new(format!("bpf(PROG_GET_FD_BY_ID, {id})"), errno)),
        }
    }
    Ok(filters)
}

/// The pointer as a 64-bit number, which `union bpf_attr` holds on every architecture.
fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

/// The descriptor as the unsigned number that the union holds. A borrowed descriptor is never negative.
fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

fn bpf_fd<A>(command: libc::c_long, attr: &mut A) -> Result<OwnedFd, Errno> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just created this descriptor (close-on-exec, as all of bpf's) and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<A>(command: libc::c_long, attr: &mut A) -> Result<RawFd, Errno> {
    // SAFETY: `attr` is one of the structs above: repr(C), zero where unused, borrowed for the call, and its true size
    // is passed. The addresses in it point to slices that the calling function still holds.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>() as libc::c_ulong)
    };
    match RawFd::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_has_eight_bytes_and_returns_its_registers() {
        assert_eq!(size_of::<Insn>(), 8);
        let insn = Insn::new(0xb7, 3, 9, -2, -1);
        assert_eq!((insn.dst(), insn.src()), (3, 9));
    }

    #[test]
    fn the_structs_have_the_kernels_offsets() {
        assert_eq!(std::mem::offset_of!(LoadAttr, log_buf), 32);
        assert_eq!(std::mem::offset_of!(LoadAttr, prog_name), 48);
        assert_eq!(std::mem::offset_of!(QueryAttr, prog_ids), 16);
        assert_eq!(std::mem::offset_of!(QueryAttr, revision), 56);
    }
}
