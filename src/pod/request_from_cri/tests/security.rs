//! NamespaceScopes, users, capabilities, profiles.

use super::*;
use crate::spec::request::{GroupsFromImage, GroupsRequest, Principal};
use coracle_cri::v1::security_profile::ProfileType;

#[test]
fn a_user_namespace_is_one_range_with_root_in_it() {
    let user = |mode: v1::NamespaceMode, uids: Vec<v1::IdMapping>, gids: Vec<v1::IdMapping>| {
        let options = v1::UserNamespace { mode: mode.into(), uids, gids };
        pod_with(|context| {
            context.namespace_options =
                Some(v1::NamespaceOption { userns_options: Some(options), ..Default::default() });
        })
    };
    use v1::NamespaceMode as Mode;
    let good = || vec![range(0, 65536, 65536)];
    let mapped = user(Mode::Pod, good(), good()).unwrap().namespaces.user.unwrap();
    assert_eq!((mapped.uids[0].host_id(), mapped.gids[0].size()), (65536, 65536));
    assert_eq!(user(Mode::Node, vec![], vec![]).unwrap().namespaces.user, None);
    refused(user(Mode::Node, good(), good()), "mode NODE");
    refused(user(Mode::Container, good(), good()), "POD and NODE");
    refused(user(Mode::Target, good(), good()), "POD and NODE");
    refused(user(Mode::Pod, vec![], good()), "uids: mode POD needs a mapping");
    refused(user(Mode::Pod, good(), vec![]), "gids: mode POD needs a mapping");
    refused(user(Mode::Pod, vec![range(0, 1000, 1), range(1, 2000, 1)], good()), "more than one");
    refused(user(Mode::Pod, good(), vec![range(1, 65536, 100)]), "0 is not mapped");
    refused(user(Mode::Pod, vec![range(0, 65536, 0)], good()), "no range");
    refused(user(Mode::Pod, vec![range(0, u32::MAX, 2)], good()), "no range");
    refused(user(Mode::Pod, good(), vec![range(0, u32::MAX, 1)]), "no range");
    refused(user(Mode::Pod, vec![range(0, 1, u32::MAX)], good()), "no range");
}

#[test]
fn each_namespace_has_only_the_scopes_that_make_sense() {
    use v1::NamespaceMode as Mode;
    let options = |network: Mode, pid: Mode, ipc: Mode, target: &str| v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: target.into(),
        userns_options: None,
    };
    let container = |o: v1::NamespaceOption| namespaces::of_container(Some(&o));
    let node = container(options(Mode::Node, Mode::Node, Mode::Node, "")).unwrap();
    assert_eq!((node.network, node.pid, node.ipc), (Scope::Host, Scope::Host, Scope::Host));
    assert_eq!(container(options(Mode::Pod, Mode::Container, Mode::Pod, "")).unwrap().pid, Scope::Container);
    let target = container(options(Mode::Pod, Mode::Target, Mode::Pod, "c1")).unwrap();
    assert_eq!(target.pid, Scope::Target("c1".into()));
    refused(container(options(Mode::Pod, Mode::Target, Mode::Pod, "")), "target_id");
    refused(container(options(Mode::Container, Mode::Pod, Mode::Pod, "")), "network");
    refused(container(options(Mode::Pod, Mode::Pod, Mode::Target, "c1")), "ipc");
    let sandbox = |o| pod_with(|context| context.namespace_options = Some(o));
    refused(sandbox(options(Mode::Pod, Mode::Target, Mode::Pod, "c1")), "TARGET");
    let host = sandbox(options(Mode::Node, Mode::Pod, Mode::Pod, "")).unwrap();
    assert_eq!(host.hostname, None);
    refused(
        secured(|c| c.namespace_options = Some(v1::NamespaceOption { pid: 9, ..Default::default() })),
        "pid",
    );
}

#[test]
fn what_a_container_shares_with_its_pod_is_as_the_pod_has_it() {
    let of = |network: Scope, pid: Scope| NamespaceScopes { network, pid, ipc: Scope::Pod, user: None };
    let within = |pod: Scope, own: Scope| {
        let all = namespaces::within(&of(Scope::Host, pod), of(Scope::Pod, own));
        assert_eq!(all.network, Scope::Host);
        all.pid
    };
    assert_eq!(within(Scope::Pod, Scope::Pod), Scope::Pod);
    assert_eq!(within(Scope::Container, Scope::Pod), Scope::Container);
    assert_eq!(within(Scope::Host, Scope::Pod), Scope::Host);
    assert_eq!(within(Scope::Pod, Scope::Container), Scope::Container);
    let target = Scope::Target("c1".to_owned());
    assert_eq!(within(Scope::Host, target.clone()), target);
}

#[test]
fn a_group_needs_a_user() {
    refused(secured(|c| c.run_as_group = id(1)), "run_as_group without run_as_user");
    refused(pod_with(|c| c.run_as_group = id(1)), "run_as_group without run_as_user");
    refused(secured(|c| c.run_as_user = id(-1)), "run_as_user");
    refused(secured(|c| c.run_as_user = id(i64::from(u32::MAX))), "run_as_user");
    refused(secured(|c| c.run_as_user = id(1 << 32)), "run_as_user");
    refused(secured(|c| (c.run_as_user, c.run_as_group) = (id(1), id(i64::from(u32::MAX)))), "run_as_group");
    refused(secured(|c| c.supplemental_groups = vec![-5]), "supplemental_groups");
    refused(secured(|c| c.supplemental_groups = vec![1, i64::from(u32::MAX)]), "supplemental_groups");
    refused(pod_with(|c| c.supplemental_groups = vec![1 << 32]), "supplemental_groups");
    let both = |c: &mut v1::LinuxContainerSecurityContext| {
        c.run_as_user = id(1);
        c.run_as_username = "web".into();
    };
    refused(secured(both), "run_as_username");
    let named = |c: &mut v1::LinuxContainerSecurityContext| {
        c.run_as_username = "web".into();
        c.run_as_group = id(5);
    };
    let user = UserRequest::Named { user: Principal::Name("web".into()), group: Some(Principal::Id(5)) };
    assert_eq!(secured(named).unwrap().container.user, user);
    refused(secured(|c| c.run_as_username = "-1".into()), "run_as_username");
    let strict = secured(|c| {
        c.supplemental_groups = vec![7];
        c.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
    });
    let expected = GroupsRequest { from_image: GroupsFromImage::Never, added: vec![Principal::Id(7)] };
    assert_eq!(strict.unwrap().container.groups, expected);
}

#[test]
fn profiles_come_from_the_field_or_else_from_the_older_string() {
    let field = |kind: ProfileType, reference: &str| {
        Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.into() })
    };
    #[expect(deprecated, reason = "the string is what is tested")]
    let seccomp = |field: Option<v1::SecurityProfile>, text: &str| {
        let set = |c: &mut v1::LinuxContainerSecurityContext| {
            c.seccomp = field;
            c.seccomp_profile_path = text.into();
        };
        secured(set).map(|w| w.container.seccomp)
    };
    let localhost = |path: &str| Profile::Localhost(path.into());
    assert_eq!(seccomp(None, "").unwrap(), Profile::Unconfined);
    assert_eq!(seccomp(None, "runtime/default").unwrap(), Profile::RuntimeDefault);
    assert_eq!(seccomp(None, "localhost//a/b.json").unwrap(), localhost("/a/b.json"));
    assert_eq!(seccomp(field(ProfileType::Localhost, "/a"), "unconfined").unwrap(), localhost("/a"));
    assert_eq!(seccomp(field(ProfileType::RuntimeDefault, ""), "").unwrap(), Profile::RuntimeDefault);
    refused(seccomp(field(ProfileType::Localhost, ""), ""), "localhost_ref");
    refused(seccomp(field(ProfileType::Localhost, "relative.json"), ""), "absolute");
    refused(seccomp(field(ProfileType::Unconfined, "/a"), ""), "localhost_ref");
    refused(seccomp(None, "localhost/"), "seccomp_profile_path");
    refused(seccomp(None, "strange"), "seccomp_profile_path");
    #[expect(deprecated, reason = "the string is what is tested")]
    let apparmor = |text: &str| secured(|c| c.apparmor_profile = text.into()).map(|w| w.container.apparmor);
    assert_eq!(apparmor("").unwrap(), Profile::RuntimeDefault);
    assert_eq!(apparmor("localhost/mine").unwrap(), localhost("mine"));
    assert_eq!(apparmor("unconfined").unwrap(), Profile::Unconfined);
}

#[test]
fn a_privileged_container_is_confined_by_nothing_and_sees_everything() {
    let all = secured(|c| {
        c.privileged = true;
        c.masked_paths = vec!["/proc/kcore".into()];
        c.capabilities = Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        c.seccomp = Some(v1::SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
    });
    let all = all.unwrap().container;
    assert_eq!((&all.seccomp, &all.apparmor), (&Profile::Unconfined, &Profile::Unconfined));
    assert!(all.masked_paths.is_empty());
    assert_eq!(all.capabilities, Capabilities::default());
    refused(secured(|c| c.masked_paths = vec!["proc".into()]), "masked_paths");
}

#[test]
fn a_label_is_completed() {
    let label = |user: &str, typ: &str, level: &str| {
        let options = v1::SeLinuxOption {
            user: user.into(),
            role: String::new(),
            r#type: typ.into(),
            level: level.into(),
        };
        secured(|c| c.selinux_options = Some(options)).unwrap().container.selinux_label
    };
    assert_eq!(label("", "", ""), None);
    assert_eq!(label("", "spc_t", "").as_deref(), Some("system_u:system_r:spc_t:s0"));
    assert_eq!(label("u", "", "s0:c1,c2").as_deref(), Some("u:system_r:container_t:s0:c1,c2"));
}

#[test]
fn capabilities_that_do_not_exist_are_refused() {
    let with = |add: &str, ambient: &str| {
        let list = |name: &str| if name.is_empty() { vec![] } else { vec![name.to_owned()] };
        let lists = v1::Capability {
            add_capabilities: list(add),
            drop_capabilities: vec![],
            add_ambient_capabilities: list(ambient),
        };
        secured(|c| c.capabilities = Some(lists)).map(|c| c.container.capabilities)
    };
    assert!(with("all", "CAP_KILL").unwrap().add_all);
    refused(with("FLYING", ""), "FLYING");
    refused(with("", "ALL"), "ambient");
}
