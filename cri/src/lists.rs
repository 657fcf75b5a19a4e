//! The lists of RuntimeService: filtered, and without items that were removed in the meantime.

use crate::backend::{Backend, RuntimeBackend, has_vanished};
use crate::error::Result;
use crate::filter;
use crate::lanes::Lane;
use crate::server::Server;
use crate::v1::*;

impl<B: Backend> Server<B> {
    pub(crate) async fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        let mut all = self.ask(Lane::Read, |node| node.runtime().list_pod_sandboxes()).await?;
        all.retain(|item| filter::sandbox(filter.as_ref(), item));
        Ok(all)
    }

    pub(crate) async fn containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        let mut all = self.ask(Lane::Read, |node| node.runtime().list_containers()).await?;
        all.retain(|item| filter::container(filter.as_ref(), item));
        Ok(all)
    }

    pub(crate) async fn stats_of_containers(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>> {
        let all = self.containers(filter::container_stats(filter)).await?;
        let ids = all.into_iter().map(|c| c.id);
        self.ask(Lane::Stats, move |node| without_vanished(ids.map(|id| node.runtime().container_stats(&id))))
            .await
    }

    pub(crate) async fn stats_of_sandboxes(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>> {
        let all = self.sandboxes(filter::sandbox_stats(filter)).await?;
        let ids = all.into_iter().map(|s| s.id);
        self.ask(Lane::Stats, move |node| {
            without_vanished(ids.map(|id| node.runtime().pod_sandbox_stats(&id)))
        })
        .await
    }

    pub(crate) async fn metrics_of_sandboxes(&self) -> Result<Vec<PodSandboxMetrics>> {
        // Also without pods, so that a node without metrics says so.
        self.ask(Lane::Stats, |node| node.runtime().metric_descriptors()).await?;
        let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
        let filter = PodSandboxFilter { state: Some(ready), ..Default::default() };
        let ids = self.sandboxes(Some(filter)).await?.into_iter().map(|s| s.id);
        self.ask(Lane::Stats, move |node| {
            without_vanished(ids.map(|id| node.runtime().pod_sandbox_metrics(&id)))
        })
        .await
    }
}

/// A list without the items that were removed while it was being built.
fn without_vanished<T>(all: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    all.filter(|item| !item.as_ref().is_err_and(has_vanished)).collect()
}
