//! What holds for any input.

use oci_spec::runtime::Capability;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_signal_survives_its_name(number in 1_i32..=65) {
        let name = signal_name(number).unwrap().unwrap();
        prop_assert_eq!(i32::from(signal_named(&name)), number);
    }

    /// Whatever is in an environment, each name comes once, and its last value with it.
    #[test]
    fn an_environment_has_each_name_once(envs in proptest::collection::vec(("[A-C]", "[a-z=]{0,3}"), 0..8)) {
        let pair = |(key, value): &(String, String)| v1::KeyValue { key: key.clone(), value: value.clone().into() };
        let all = wishes(|c| c.envs = envs.iter().map(pair).collect()).unwrap();
        let env = all.environment(&ImageDefaults::default(), "h");
        for (name, _) in &envs {
            let own: Vec<_> = env.iter().filter(|e| e.starts_with(format!("{name}=").as_bytes())).collect();
            let last = &envs.iter().rev().find(|(n, _)| n == name).unwrap().1;
            prop_assert_eq!(own, [&format!("{name}={last}").into_bytes()]);
        }
    }

    /// No capability that is dropped is in any set, and ambient ones are in all.
    #[test]
    fn dropped_capabilities_are_gone(
        add in proptest::sample::subsequence(vec!["CHOWN", "KILL", "NET_RAW", "ALL"], 0..4),
        drop in proptest::sample::subsequence(vec!["CHOWN", "KILL", "SYS_ADMIN"], 0..3),
        ambient in proptest::sample::subsequence(vec!["KILL", "NET_RAW"], 0..2),
    ) {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let lists = v1::Capability {
            add_capabilities: list(&add),
            drop_capabilities: list(&drop),
            add_ambient_capabilities: list(&ambient),
        };
        use Capability::{Chown, Kill, NetRaw, SysAdmin};
        let known = [Chown, Kill, NetRaw, SysAdmin].into();
        let wishes = Capabilities::of(Some(&lists), false).unwrap();
        let sets = wishes.sets(&[Chown].into(), &known);
        let (all, ambient) = (sets.bounding().clone().unwrap(), sets.ambient().clone().unwrap());
        prop_assert!(wishes.drop.iter().all(|c| !all.contains(c)));
        prop_assert!(ambient.is_subset(&all));
        prop_assert!(wishes.ambient.iter().all(|c| wishes.drop.contains(c) || ambient.contains(c)));
    }

    /// Nothing that a client sends makes the conversion panic.
    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC{0,12}", number in any::<i64>(), small in any::<i32>()) {
        let mut config = container();
        config.working_dir = text.clone();
        config.log_path = text.clone();
        config.stop_signal = small;
        config.mounts = vec![v1::Mount { host_path: text.clone(), container_path: text.clone(), propagation: small, ..Default::default() }];
        config.devices = vec![v1::Device { host_path: text.clone(), permissions: text.clone(), ..Default::default() }];
        config.cdi_devices = vec![v1::CdiDevice { name: text.clone() }];
        let _ = ContainerWishes::of(&config, &pod());
        let _ = limited(v1::LinuxContainerResources {
            cpu_quota: number,
            memory_limit_in_bytes: number,
            unified: [(text.clone(), text.clone())].into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: text.clone(), limit: 1 }],
            ..Default::default()
        });
        let _ = Bandwidth::of(&[("kubernetes.io/egress-bandwidth".to_owned(), text)].into());
    }
}
