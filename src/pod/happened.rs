//! What happens in the life of a pod or container, as GetContainerEvents names it.

use coracle_cri::v1::ContainerEventType as Kind;

/// What has happened to a pod or container, or was announced of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) created: bool,
    pub(super) started: bool,
    pub(super) stopped: bool,
    pub(super) deleted: bool,
}

impl Happened {
    /// What `self` has and `before` has not, in the order of a life.
    pub(super) fn since(self, before: Self) -> impl Iterator<Item = Kind> {
        [
            (self.created && !before.created, Kind::ContainerCreatedEvent),
            (self.started && !before.started, Kind::ContainerStartedEvent),
            (self.stopped && !before.stopped, Kind::ContainerStoppedEvent),
            (self.deleted && !before.deleted, Kind::ContainerDeletedEvent),
        ]
        .into_iter()
        .filter_map(|(is_new, kind)| is_new.then_some(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_announced_is_announced_in_the_order_of_a_life() {
        let nothing = Happened::default();
        let created = Happened { created: true, ..nothing };
        let ended = Happened { started: true, stopped: true, ..created };
        let kinds = |now: Happened, before| now.since(before).collect::<Vec<_>>();
        assert_eq!(kinds(created, nothing), [Kind::ContainerCreatedEvent]);
        assert_eq!(kinds(ended, created), [Kind::ContainerStartedEvent, Kind::ContainerStoppedEvent]);
        assert_eq!(kinds(ended, ended), []);
        let removed = Happened { deleted: true, ..created };
        assert_eq!(kinds(removed, created), [Kind::ContainerDeletedEvent], "it was never started");
    }
}
