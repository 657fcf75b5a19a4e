//! What runs, with which environment.

use super::ContainerWishes;
use crate::error::{Error, Result};
use crate::v1;

/// PATH of images that name none.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image says about the process to run in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// ENTRYPOINT
    pub entrypoint: Vec<String>,
    /// CMD
    pub cmd: Vec<String>,
    /// ENV, as `KEY=VALUE`
    pub env: Vec<String>,
}

/// An environment variable. Values need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name, without `=`.
    pub name: String,
    /// Its value, without NUL.
    pub value: Vec<u8>,
}

impl ContainerWishes {
    /// The arguments, the program first: `command` replaces the image's entrypoint and drops its command, `args`
    /// replaces its command.
    ///
    /// # Errors
    /// `Invalid` when nothing is left to run, or an argument has a NUL.
    pub fn arguments(&self, image: &ImageDefaults) -> Result<Vec<String>> {
        let program = if self.command.is_empty() { &image.entrypoint } else { &self.command };
        let rest = match (self.args.is_empty(), self.command.is_empty()) {
            (false, _) => self.args.as_slice(),
            (true, true) => &image.cmd,
            (true, false) => &[],
        };
        let all: Vec<String> = program.iter().chain(rest).cloned().collect();
        if all.is_empty() {
            return Err(Error::invalid("no command to run: neither the container nor its image names one"));
        }
        if let Some(bad) = all.iter().find(|a| a.contains('\0')) {
            return Err(Error::invalid(format!("the argument {bad:?} has a NUL in it")));
        }
        Ok(all)
    }

    /// The environment as `KEY=VALUE`: what a container is told, then the image's, then its own; the last of a name
    /// wins.
    pub fn environment(&self, image: &ImageDefaults, hostname: &str) -> Vec<Vec<u8>> {
        let mut env: Vec<Vec<u8>> = Vec::new();
        let mut set = |entry: Vec<u8>| {
            let place = env.iter_mut().find(|e| name_of(e) == name_of(&entry));
            match place {
                Some(place) => *place = entry,
                None => env.push(entry),
            }
        };
        set(PATH.to_vec());
        set(format!("HOSTNAME={hostname}").into_bytes());
        if self.tty {
            set(b"TERM=xterm".to_vec());
        }
        image.env.iter().for_each(|entry| set(entry.clone().into_bytes()));
        for Variable { name, value } in &self.env {
            set([name.as_bytes(), b"=", value].concat());
        }
        env
    }
}

fn name_of(entry: &[u8]) -> &[u8] {
    entry.split(|b| *b == b'=').next().unwrap_or_default()
}

pub(super) fn variables(envs: &[v1::KeyValue]) -> Result<Vec<Variable>> {
    envs.iter()
        .map(|v1::KeyValue { key, value }| {
            if key.is_empty() || key.contains(['=', '\0']) {
                return Err(Error::invalid(format!("envs: {key:?} is not the name of a variable")));
            }
            if value.contains(&0) {
                return Err(Error::invalid(format!("envs: the value of {key} has a NUL in it")));
            }
            Ok(Variable { name: key.clone(), value: value.clone() })
        })
        .collect()
}
