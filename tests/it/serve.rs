//! `coracle serve` as kubelet and systemd meet it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;

use coracle_cri::v1::{ListImagesRequest, StatusRequest, StatusResponse, VersionRequest};
use rustix::process::Signal;

use crate::keeper::end_keepers;
use crate::support::{Serve, wait_until};

fn status(serve: &Serve) -> StatusResponse {
    serve.run(serve.runtime().status(StatusRequest { verbose: true })).unwrap()
}

#[test]
fn it_says_who_it_is_and_whether_it_can_work() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let version = serve.run(serve.runtime().version(VersionRequest::default())).unwrap();
    assert_eq!(version.runtime_name, "coracle");
    assert_eq!(version.runtime_api_version, "v1");
    assert!(!version.version.is_empty() && !version.runtime_version.is_empty());
    let status = status(&serve);
    let conditions = status.status.unwrap().conditions;
    assert!(conditions[0].r#type == "RuntimeReady" && conditions[0].status, "{conditions:?}");
    assert!(conditions[1].r#type == "NetworkReady" && !conditions[1].status, "{conditions:?}");
    assert!(conditions[1].message.contains("net.d"), "{conditions:?}");
    let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "coracle", "crun", "nvidia", "runc"]);
    let features = status.runtime_handlers[0].features;
    assert!(status.runtime_handlers.iter().all(|handler| handler.features == features));
    assert!(features.is_some_and(|can| can.recursive_read_only_mounts || !can.user_namespaces));
    assert!(!serve.path("store/probe").exists());
    assert!(status.features.unwrap().supplemental_groups_policy);
    let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(config["stateDir"], serve.kept().run_dir().to_str().unwrap());
}

#[test]
fn a_network_counts_as_soon_as_its_configuration_is_there() {
    needs!(root, launch_verb, cni_plugins);
    let serve = Serve::new();
    let is_ready = || status(&serve).status.unwrap().conditions[1].status;
    assert!(!is_ready());
    fs::create_dir(serve.path("net.d")).unwrap();
    let network = |plugin: &str| {
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [{{"type": "{plugin}", "ipam": {{}}}}]}}"#
        );
        fs::write(serve.path("net.d/10-net.conflist"), text).unwrap();
    };
    network("no-such-plugin");
    let conditions = status(&serve).status.unwrap().conditions;
    assert!(conditions[1].message.contains("no-such-plugin"), "{conditions:?}");
    network("bridge");
    assert!(is_ready());
}

#[test]
fn a_second_one_is_refused_and_the_first_goes_on() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let refused = serve.prepare().go().fails();
    assert!(refused.stderr.contains("another coracle serve uses"), "{refused}");
    // Another directory, the same socket.
    let refused = serve.prepare().env("CORACLE_RUN", serve.path("other")).go().fails();
    assert!(refused.stderr.contains("another process is listening there"), "{refused}");
    status(&serve);
    fs::write(serve.path("file"), "kept").unwrap();
    serve.stop();
    let refused = serve.prepare().arg("--socket").arg(serve.path("file")).go().fails();
    assert!(refused.stderr.contains("is not a socket"), "{refused}");
    assert_eq!(fs::read_to_string(serve.path("file")).unwrap(), "kept");
}

#[test]
fn killed_it_is_started_again_on_the_same_socket() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let keeper = serve.kept().keeper();
    serve.kill();
    assert!(serve.socket().exists());
    serve.start();
    status(&serve);
    assert_eq!(serve.kept().keeper(), keeper, "the keeper goes on");
    serve.stop();
    assert!(!serve.socket().exists(), "it takes its socket along");
    assert_eq!(serve.kept().keeper(), keeper);
}

#[test]
fn told_to_end_it_ends_well_whoever_is_connected() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    for signal in [Signal::TERM, Signal::INT] {
        status(&serve);
        serve.signal(signal);
        let status = serve.wait();
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}: {}", serve.log());
        serve.start();
    }
}

#[test]
fn the_socket_is_for_root_and_its_group() {
    use std::os::unix::fs::PermissionsExt;
    needs!(root, launch_verb);
    let serve = Serve::new();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&serve.socket()), 0o660);
    assert_eq!(mode(&serve.kept().run_dir()), 0o700);
}

#[test]
fn a_keeper_that_is_gone_is_started_by_the_next_question() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let before = serve.kept().keeper();
    end_keepers(&serve.kept().run_dir());
    let conditions = status(&serve).status.unwrap().conditions;
    assert!(conditions[0].status, "{conditions:?}");
    assert_ne!(serve.kept().keeper(), before);
}

#[test]
fn systemd_is_told_and_hands_over_the_socket() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let told = UnixDatagram::bind(serve.path("notify")).unwrap();
    told.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let listener = UnixListener::bind(serve.socket()).unwrap();
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    let before = inode(&serve.socket());
    let mut command = activated(&serve);
    command.env("NOTIFY_SOCKET", serve.path("notify")).stdin(std::os::fd::OwnedFd::from(listener));
    // Standard error leads to a file, which stands for the journal here.
    let journal = fs::metadata(serve.path("serve.log")).unwrap();
    command.env("JOURNAL_STREAM", format!("{}:{}", journal.dev(), journal.ino()));
    serve.start_as(command);
    let hear = || {
        let mut buffer = [0; 256];
        let count = told.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    status(&serve);
    serve.signal(Signal::HUP);
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hear(), "READY=1");
    serve.configure("no-such-key = 1\n");
    serve.signal(Signal::HUP);
    hear();
    assert_eq!(hear(), "READY=1");
    assert!(serve.log().starts_with("<4>the configuration stays as it was: "), "{}", serve.log());
    serve.signal(Signal::TERM);
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(serve.wait().code(), Some(0));
    assert_eq!(inode(&serve.socket()), before, "it is systemd's, and stays");
}

/// The command, started by a shell that puts its standard input where systemd puts a socket.
fn activated(serve: &Serve) -> std::process::Command {
    let plain = serve.command();
    let mut command = std::process::Command::new("bash");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    command.args(["-c", script, "bash"]).arg(plain.get_program()).args(plain.get_args());
    let log = fs::File::options().create(true).append(true).open(serve.path("serve.log")).unwrap();
    command.env("CORACLE_SANDBOX", serve.sandbox().mark()).process_group(0);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command
}

#[test]
fn a_reload_takes_what_is_new_and_keeps_what_it_has_if_that_is_wrong() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    let is_pinned = || {
        let images = serve.run(serve.image().list_images(ListImagesRequest::default())).unwrap().images;
        images.iter().any(|image| image.pinned)
    };
    let reload = |config: &str, word: &str| {
        serve.configure(config);
        serve.signal(Signal::HUP);
        wait_until(&format!("{word:?} in the log"), || serve.log().contains(word).then_some(()));
    };
    assert!(!is_pinned());
    serve.configure("images.pinned = [\"box\"]\n");
    serve.signal(Signal::HUP);
    wait_until("the new pin", || is_pinned().then_some(()));
    reload("images.pined = []\n", "did you mean pinned?");
    assert!(serve.log().contains("10-test.toml:1: unknown field `pined`"), "{}", serve.log());
    assert!(is_pinned());
    let handlers = || status(&serve).runtime_handlers.len();
    let before = handlers();
    reload(
        "max_parallel_calls = 8\n[security]\nselinux = true\n[handlers.more]\n",
        "only a restart applies it: max_parallel_calls, [security]",
    );
    wait_until("the new handler", || (handlers() == before + 1).then_some(()));
    assert!(!is_pinned());
}

#[test]
fn what_the_configuration_cannot_mean_is_refused_by_file_and_line() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    for (config, words) in [
        ("\nsoket = \"/x\"", ":2: unknown field `soket`|did you mean socket?"),
        ("cgroup_driver = \"systemt\"", ":1: unknown variant|did you mean systemd?"),
        ("socket = \"here\"", ":1: \"here\" is not an absolute path"),
        ("state_on_tmpfs = 1", ":1: invalid type: integer `1`, expected a boolean"),
        ("max_parallel_calls = 0", ":1: 0 calls are not between 4 and 512"),
        ("[images]\nprogress_timeout_seconds = -1", ":2: -1 seconds are not between"),
        ("[cni]\nbin_dirs = [\"/a\", \"b\"]", ":2: \"b\" is not an absolute path"),
        ("[handlers.kata]\nkind = \"kata\"", ":2: unknown variant `kata`"),
        ("[handlers", ":1: "),
    ] {
        serve.configure(config);
        let refused = serve.prepare().go().fails();
        assert!(refused.stderr.contains("config.d/10-test.toml"), "{refused}");
        for word in words.split('|') {
            assert!(refused.stderr.contains(word), "{word:?}: {refused}");
        }
    }
    assert!(!serve.path("store/journal.new").exists() && !serve.socket().exists());
    let refused = serve.sandbox().coracle(["serve", "--config", "/no/such/file"]).fails();
    assert!(refused.stderr.contains("/no/such/file"), "{refused}");
}

#[test]
fn the_configuration_is_shown_as_it_counts() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("[handlers.more]\n[cni]\nbin_dirs = [\"/only\"]\n");
    let file = serve.path("config.toml");
    let show = |words: &[&str]| {
        let run = crate::support::Run::new(crate::support::Runtime::Ours.program()).args(words);
        run.arg("config").arg("--config").arg(&file).go().ok().stdout
    };
    let shown: toml::Table = show(&[]).parse().unwrap();
    assert_eq!(shown["socket"].as_str(), serve.socket().to_str());
    // Lists are replaced, tables are merged.
    assert_eq!(shown["cni"]["bin_dirs"].as_array().unwrap().len(), 1);
    assert_eq!(shown["handlers"].as_table().unwrap().len(), 5);
    let shown: toml::Table = show(&["--run", "/elsewhere", "--systemd-cgroup"]).parse().unwrap();
    assert_eq!(shown["run"].as_str(), Some("/elsewhere"));
    assert_eq!(shown["cgroup_driver"].as_str(), Some("systemd"));
    let default = serve.sandbox().coracle(["config", "--default"]).ok().stdout;
    assert_eq!(default, coracle::serve::config::DEFAULT);
}
