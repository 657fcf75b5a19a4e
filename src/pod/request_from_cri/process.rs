//! The process: command, arguments, environment.

use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::{ProcessRequest, Variable};

pub(super) fn process(
    config: &v1::ContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
    oom_score_adj: i32,
) -> Result<ProcessRequest> {
    Ok(ProcessRequest {
        entrypoint: (!config.command.is_empty()).then(|| config.command.clone()),
        args: config.args.clone(),
        env: variables(&config.envs)?,
        working_dir: super::path("working_dir", &config.working_dir)?,
        terminal: config.tty,
        no_new_privileges: security.no_new_privs,
        rlimits: Vec::new(),
        // Set explicitly, so that the daemon's own value is not inherited.
        oom_score_adj: Some(oom_score_adj),
    })
}

fn variables(envs: &[v1::KeyValue]) -> Result<Vec<Variable>> {
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
