//! What holds for any input.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_signal_survives_its_name(number in 1_i32..=65) {
        let name = signal_name(number).unwrap().unwrap();
        prop_assert_eq!(i32::from(signal_named(&name)), number);
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
        let _ = SandboxRequest::from_cri(&pod()).and_then(|pod| CreateRequest::from_cri(&config, &pod));
        let _ = limited(v1::LinuxContainerResources {
            cpu_quota: number,
            memory_limit_in_bytes: number,
            unified: [(text.clone(), text.clone())].into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: text.clone(), limit: 1 }],
            ..Default::default()
        });
        let _ = TrafficLimits::of(&[("kubernetes.io/egress-bandwidth".to_owned(), text)].into());
    }
}
