//! UpdateContainerResources and ReopenContainerLog.

use coracle_cri::v1;

use super::Containers;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::oci::ps;
use crate::pod::machine::State;
use crate::pod::request_from_cri::resources;
use crate::pod::requests;

impl Containers {
    /// Changes the limits of a created or running container; limits that are not set in the request stay as they are.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` for a container that has exited, or a limit that the kernel refuses.
    pub(in crate::pod) fn update(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        let container = self.get(&request.container_id)?;
        let Some(new) = &request.linux else { return Ok(()) };
        let (limits, _) = resources(Some(new))?;
        if check(&container.id, container.state())? == State::Running {
            ps::update_in_pod(&self.host.runtime(), &ContainerId::parse(&container.id)?, &limits)?;
        }
        let mut life = container.life();
        // It may have been removed in the meantime, and nothing may be written to its directory then.
        check(&container.id, life.record.state)?;
        let config = life.config.linux.get_or_insert_default();
        merge(config.resources.get_or_insert_default(), new);
        // The prepared spec has the old limits.
        life.prepared = None;
        if let Some(mut request) = life.request.clone() {
            let all = life.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
            let (limits, oom_score_adj) = resources(all)?;
            request.container.resources = limits;
            request.container.process.oom_score_adj = Some(oom_score_adj);
            requests::save(&container.directory, &request)?;
            life.request = Some(request);
        }
        container.directory.save_config(&life.config)
    }

    /// Makes the keeper reopen a container's log, after kubelet has rotated it.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` for a container that is not running, or the file cannot be opened.
    pub(in crate::pod) fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.running(id)?;
        Client::ask_any(&self.host.settings.run, |keeper| keeper.reopen(&container.id))
    }
}

/// # Errors
/// `WrongState` for a container that has no limits to change.
fn check(id: &str, state: State) -> Result<State> {
    match state {
        State::Created | State::Running => Ok(state),
        State::Starting | State::Exited | State::Gone => {
            let what = format!("container {id} is {state}: it has no limits to change");
            Err(Error::new(Kind::WrongState, what))
        }
    }
}

/// Replaces the limits that `new` sets.
fn merge(old: &mut v1::LinuxContainerResources, new: &v1::LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    if new.memory_limit_in_bytes != 0 {
        // Without a swap limit, the new limit of memory is that of swap as well.
        old.memory_limit_in_bytes = new.memory_limit_in_bytes;
        old.memory_swap_limit_in_bytes = new.memory_swap_limit_in_bytes;
    }
    number(&mut old.oom_score_adj, new.oom_score_adj);
    for (old, new) in [(&mut old.cpuset_cpus, &new.cpuset_cpus), (&mut old.cpuset_mems, &new.cpuset_mems)] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits.clone_from(&new.hugepage_limits);
    }
    old.unified.extend(new.unified.clone());
}
