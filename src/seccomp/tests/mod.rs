//! Tests of compiled programs by running them.

mod interpreter;
mod oracle;
mod verdicts;

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use self::interpreter::{Data, Run, run};
use super::abi::Abi;

/// A profile from JSON, the form that users write.
fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn compiled(profile: &LinuxSeccomp, native: Abi) -> Vec<sock_filter> {
    super::instructions(profile, native).unwrap()
}

/// Runs `program` for the call `name` of `abi`.
fn call(program: &[sock_filter], abi: Abi, name: &str, args: &[u64]) -> Run {
    let number = super::table::find(name).unwrap().number(abi).unwrap();
    run(program, &Data::new(abi.audit(), number, args))
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
