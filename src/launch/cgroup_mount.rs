//! The `cgroup` mount type: what a container sees of its cgroups, on v2 and on v1.
//!
//! v2 is one mount. v1 is a tmpfs with one mount per hierarchy and a symbolic link for each controller that shares a
//! hierarchy. With a cgroup namespace the mounts are new instances, rooted at the namespace; without one, the
//! container's own cgroup directories are bind-mounted.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::mounts::MountOptions;
use super::namespaces::Namespaces;
use super::request::{Facts, Hierarchy};
use super::steps::{MountStep, PointKind, Source, Step};
use super::text::{below, cpath, cstring};
use crate::error::{Error, Kind, Result};
use crate::sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};

/// Pushes the steps for one cgroup mount.
///
/// # Errors
/// `Unsupported` when the host has no cgroups mounted.
pub(super) fn push(
    mount: &Mount,
    namespaces: &Namespaces,
    facts: &Facts,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    let view =
        HierarchyView { mount, attr: options.attr, private: namespaces.private & libc::CLONE_NEWCGROUP != 0 };
    if facts.unified {
        let own = facts.cgroup_paths.get("").map(std::path::PathBuf::as_path);
        steps.push(view.step(mount.destination(), view.unified_source(own)?, view.attr)?);
        return Ok(());
    }
    if facts.hierarchies.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            "mounts: a cgroup mount, but the host has no cgroups mounted",
        )
        .hint("mount cgroup2 on /sys/fs/cgroup"));
    }
    let base_attr = MountAttr { set: ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, ..MountAttr::default() };
    let parameters = vec![
        (c"source".to_owned(), Some(c"tmpfs".to_owned())),
        (c"mode".to_owned(), Some(c"755".to_owned())),
    ];
    let base = Source::Filesystem { fstype: c"tmpfs".to_owned(), parameters };
    steps.push(view.step(mount.destination(), base, base_attr)?);
    for hierarchy in &facts.hierarchies {
        view.push_hierarchy(hierarchy, facts, steps)?;
    }
    if view.attr.set & ATTR_RDONLY != 0 {
        let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
        steps.push(view.step(mount.destination(), Source::Existing, attr)?);
    }
    Ok(())
}

/// The step that makes a mount read-only after everything inside it was created.
pub(super) fn again_read_only(step: &MountStep) -> Step {
    Step::Mount(Box::new(MountStep {
        source: Source::Existing,
        attr: MountAttr { set: ATTR_RDONLY, ..MountAttr::default() },
        recursive_attr: None,
        propagation: Vec::new(),
        copy_up: false,
        ..step.clone()
    }))
}

struct HierarchyView<'a> {
    mount: &'a Mount,
    attr: MountAttr,
    private: bool,
}

impl HierarchyView<'_> {
    fn step(&self, point: &Path, source: Source, attr: MountAttr) -> Result<Step> {
        Ok(Step::Mount(Box::new(MountStep {
            source,
            point: below("mounts: destination", point)?,
            kind: PointKind::Directory,
            attr,
            recursive_attr: None,
            propagation: Vec::new(),
            copy_up: false,
            no_symlinks: false,
        })))
    }

    fn unified_source(&self, own: Option<&Path>) -> Result<Source> {
        if let Some(own) = own.filter(|_| !self.private) {
            return Ok(Source::Host { path: cpath("cgroup", own)?, recursive: false });
        }
        let parameters = vec![(c"source".to_owned(), Some(c"cgroup".to_owned()))];
        Ok(Source::Filesystem { fstype: c"cgroup2".to_owned(), parameters })
    }

    fn push_hierarchy(&self, hierarchy: &Hierarchy, facts: &Facts, steps: &mut Vec<Step>) -> Result<()> {
        let controller = hierarchy.name.split(',').find_map(|name| facts.cgroup_paths.get(name));
        let source = if self.private {
            let mut parameters = vec![(c"source".to_owned(), Some(c"cgroup".to_owned()))];
            for option in &hierarchy.options {
                let (key, value) =
                    option.split_once('=').map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
                let value = value.map(|v| cstring("cgroup", v)).transpose()?;
                parameters.push((cstring("cgroup", key)?, value));
            }
            Source::Filesystem { fstype: c"cgroup".to_owned(), parameters }
        } else {
            let Some(own) = controller else { return Ok(()) };
            Source::Host { path: cpath("cgroup", own)?, recursive: false }
        };
        let point = self.mount.destination().join(&hierarchy.name);
        steps.push(self.step(&point, source, self.attr)?);
        for alias in hierarchy.name.split(',').filter(|alias| *alias != hierarchy.name) {
            let link = below("mounts: destination", &self.mount.destination().join(alias))?;
            steps.push(Step::Symlink { target: cstring("cgroup", hierarchy.name.as_str())?, link });
        }
        Ok(())
    }
}
