//! The filters of lists. Fields that a filter does not set match everything.

use std::collections::BTreeMap;

use crate::v1;

type Labels = BTreeMap<String, String>;

pub(crate) fn sandbox(filter: Option<&v1::PodSandboxFilter>, item: &v1::PodSandbox) -> bool {
    filter.is_none_or(|f| {
        item.id.starts_with(&f.id)
            && f.state.is_none_or(|s| s.state == item.state)
            && has_labels(&item.labels, &f.label_selector)
    })
}

pub(crate) fn container(filter: Option<&v1::ContainerFilter>, item: &v1::Container) -> bool {
    filter.is_none_or(|f| {
        item.id.starts_with(&f.id)
            && f.state.is_none_or(|s| s.state == item.state)
            && item.pod_sandbox_id.starts_with(&f.pod_sandbox_id)
            && has_labels(&item.labels, &f.label_selector)
    })
}

pub(crate) fn sandbox_stats(filter: Option<v1::PodSandboxStatsFilter>) -> Option<v1::PodSandboxFilter> {
    filter.map(|f| v1::PodSandboxFilter { id: f.id, state: None, label_selector: f.label_selector })
}

pub(crate) fn container_stats(filter: Option<v1::ContainerStatsFilter>) -> Option<v1::ContainerFilter> {
    filter.map(|f| v1::ContainerFilter {
        id: f.id,
        state: None,
        pod_sandbox_id: f.pod_sandbox_id,
        label_selector: f.label_selector,
    })
}

fn has_labels(labels: &Labels, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_filter_asks_for_everything_it_names() {
        let item = v1::Container {
            id: "abcdef".into(),
            pod_sandbox_id: "pod1".into(),
            state: v1::ContainerState::ContainerRunning.into(),
            labels: labels(&[("app", "web"), ("tier", "front")]),
            ..Default::default()
        };
        let state = |s: v1::ContainerState| Some(v1::ContainerStateValue { state: s.into() });
        let filter = v1::ContainerFilter {
            id: "abc".into(),
            state: state(v1::ContainerState::ContainerRunning),
            pod_sandbox_id: "pod1".into(),
            label_selector: labels(&[("app", "web")]),
        };
        assert!(container(None, &item) && container(Some(&v1::ContainerFilter::default()), &item));
        assert!(container(Some(&filter), &item));
        let others = [
            v1::ContainerFilter { id: "bcd".into(), ..filter.clone() },
            v1::ContainerFilter { state: state(v1::ContainerState::ContainerCreated), ..filter.clone() },
            v1::ContainerFilter { pod_sandbox_id: "pod2".into(), ..filter.clone() },
            v1::ContainerFilter { label_selector: labels(&[("app", "db")]), ..filter.clone() },
            v1::ContainerFilter { label_selector: labels(&[("app", "web"), ("x", "")]), ..filter },
        ];
        for other in &others {
            assert!(!container(Some(other), &item), "{other:?}");
        }
    }
}
