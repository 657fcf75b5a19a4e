//! Hostile containers: programs that attack whatever appears beside them while containers are started and entered.
//!
//! An argument that a race cannot be won is worth little; here it is run. The attackers are this very test program,
//! which is linked statically: it is mounted into the container and started there again with [`attacker`] as its only
//! test. So nothing has to be compiled, and guests that have no compiler run the same attacks.
//!
//! `CORACLE_HOSTILE_ROUNDS` says how many starts or execs each attack lasts (7 by default, in CI: the whole
//! of these tests then takes a minute and a half).

/// What runs inside.
mod attacker;
mod exec;
mod freeze;
mod inherit;
mod killed;
mod pods;
/// What an attacker is told and what it reports; both sides use it.
mod report;
mod signals;
mod spy;
mod start;
mod stdio;
mod swap;

pub(crate) use spy::{Spy, rounds};
