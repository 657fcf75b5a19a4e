//! ImageService of `coracle serve`, with images from a registry of the tests' own.

use std::future::Future;

use coracle_cri::v1::{
    AuthConfig, Image as Found, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest,
};
use rustix::process::Signal;
use tonic::{Code, Status};

use crate::image_fixture::{Image, Layout, image};
use crate::support::registry::{Auth, Fault, TestRegistry};
use crate::support::{Serve, wait_until};

fn named(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() })
}

fn pull_as(serve: &Serve, name: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let request = PullImageRequest { image: named(name), auth, sandbox_config: None };
    serve.run(serve.image().pull_image(request)).map(|answer| answer.image_ref)
}

fn pull(serve: &Serve, name: &str) -> String {
    pull_as(serve, name, None).unwrap()
}

fn status(serve: &Serve, name: &str) -> Option<Found> {
    let request = ImageStatusRequest { image: named(name), verbose: false };
    serve.run(serve.image().image_status(request)).unwrap().image
}

fn list(serve: &Serve) -> Vec<Found> {
    serve.run(serve.image().list_images(ListImagesRequest::default())).unwrap().images
}

fn remove(serve: &Serve, name: &str) {
    serve.run(serve.image().remove_image(RemoveImageRequest { image: named(name) })).unwrap();
}

#[test]
fn the_daemon_pulls_by_the_rules_of_k3s_and_says_at_once_what_is_nowhere() {
    needs!(root, launch_verb);
    let (serve, registry, mirror) = (Serve::new(), TestRegistry::start(), TestRegistry::start());
    registry.small("app:1");
    let host = registry.host();
    for file in [
        "mirrors:\n  \"*\":\n".to_owned(),
        "mirrors:\n  docker.io:\n  \"*\":\n".to_owned(),
        format!("configs:\n  \"{host}\":\n    auth:\n      username: u\n      password: 0123\n"),
        format!("configs:\n  \"{host}\":\n    tls:\n      insecure_skip_verify: true\n"),
    ] {
        std::fs::write(serve.path("registries.yaml"), file).unwrap();
        pull(&serve, &registry.name("app:1"));
        remove(&serve, &registry.name("app:1"));
    }
    let file = format!("mirrors:\n  \"127.0.0.1:1\": {{endpoint: [\"{}\"]}}\n", mirror.url());
    std::fs::write(serve.path("registries.yaml"), file).unwrap();
    let missing = pull_as(&serve, "127.0.0.1:1/gone:1", None).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing:?}");
    assert!(
        missing.message().contains(&mirror.url()) && missing.message().contains("127.0.0.1:1/v2"),
        "{missing:?}"
    );
    // A name that leads to another host, which wants a token of its own.
    std::fs::remove_file(serve.path("registries.yaml")).unwrap();
    mirror.require(Auth::Bearer { realm: None, login: None });
    mirror.small("app:1");
    registry.fault("/v2/", 99, Fault::MovedTo(mirror.url()));
    let auth = AuthConfig { username: "joe".into(), password: "secret".into(), ..AuthConfig::default() };
    pull_as(&serve, &registry.name("app:1"), Some(auth)).unwrap();
    let shown = mirror.seen().into_iter().filter_map(|seen| seen.headers.get("authorization").cloned());
    assert!(shown.into_iter().all(|shown| shown.starts_with("Bearer token-")));
}

#[test]
fn what_of_registries_yaml_has_no_effect_is_named_at_the_start_and_after_a_reload() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let write = |text: &str| std::fs::write(serve.path("registries.yaml"), text).unwrap();
    write("mirrors:\n  docker.io:\n");
    serve.start();
    assert!(serve.log().contains("embedded-registry"), "{}", serve.log());
    write("mirrors: [");
    serve.signal(Signal::HUP);
    wait_until("a warning of a broken file", || serve.log().contains("registries.yaml: ").then_some(()));
    write("configs: {m.example: {tls: {ca: /x}}}\n");
    serve.signal(Signal::HUP);
    wait_until("a warning", || serve.log().contains("\"m.example\".tls.ca is not supported").then_some(()));
}

#[test]
fn an_image_is_pulled_found_by_every_name_and_removed_whole() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let mut layout = Layout::of(image("small"));
    layout.edit_config(|config| config["config"]["User"] = "1000:100".into());
    let digest = registry.layout(&layout, "app:1");
    registry.layout(&layout, "app:2");
    let (name, other) = (registry.name("app:1"), registry.name("app:2"));
    assert_eq!(status(&serve, &name), None);
    let id = pull(&serve, &name);
    assert_eq!(pull(&serve, &other), id);
    let found = status(&serve, &name).unwrap();
    assert_eq!(found.id, id);
    assert_eq!(found.repo_tags, [name.clone(), other.clone()]);
    assert_eq!(found.repo_digests, [registry.name(&format!("app@{digest}"))]);
    assert_eq!((found.uid.unwrap().value, found.username.as_str()), (1000, ""));
    assert!(found.size > 0 && !found.pinned);
    let hex = id.strip_prefix("sha256:").unwrap();
    let forms = [
        id.clone(),
        hex.to_owned(),
        hex[..12].to_owned(),
        other.clone(),
        registry.name(&format!("app@{digest}")),
        registry.name(&format!("app:1@{digest}")),
    ];
    let all_find = |serve: &Serve| {
        for form in &forms {
            assert_eq!(status(serve, form).as_ref(), Some(&found), "{form}");
        }
    };
    all_find(&serve);
    serve.kill();
    serve.start();
    all_find(&serve);
    assert!(list(&serve).contains(&found));
    let filter = ListImagesRequest { filter: Some(coracle_cri::v1::ImageFilter { image: named(&name) }) };
    assert_eq!(serve.run(serve.image().list_images(filter)).unwrap().images, [found]);
    // One name takes the image with all its names.
    remove(&serve, &name);
    assert_eq!(status(&serve, &other), None);
    assert!(list(&serve).iter().all(|image| image.id != id));
    remove(&serve, &name);
    remove(&serve, &id);
}

#[test]
fn what_is_pulled_by_digest_has_no_tag() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let digest = registry.layout(&Layout::of(image("small")), "app:1");
    let name = registry.name(&format!("app@{digest}"));
    let id = pull(&serve, &name);
    let found = status(&serve, &name).unwrap();
    assert_eq!((found.id.as_str(), found.repo_tags.len()), (id.as_str(), 0));
    assert_eq!(found.repo_digests, [name]);
}

#[test]
fn a_login_that_comes_with_the_call_counts_and_no_other_pull_gets_its_refusal() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    registry.small("app:1");
    registry.require(Auth::Basic("joe:secret"));
    let name = registry.name("app:1");
    let login = |password: &str| AuthConfig {
        username: "joe".to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    };
    assert_eq!(pull_as(&serve, &name, None).unwrap_err().code(), Code::PermissionDenied);
    let refused = pull_as(&serve, &name, Some(login("wrong"))).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let elsewhere = AuthConfig { server_address: "https://other.example/v1".to_owned(), ..login("secret") };
    assert_eq!(pull_as(&serve, &name, Some(elsewhere)).unwrap_err().code(), Code::PermissionDenied);
    assert!(!serve.log().contains("secret"), "{}", serve.log());
    assert_eq!(status(&serve, &name), None);
    let encoded = AuthConfig { auth: "am9lOnNlY3JldA==".to_owned(), ..AuthConfig::default() };
    pull_as(&serve, &name, Some(encoded)).unwrap();
    pull_as(&serve, &name, Some(login("secret"))).unwrap();
}

#[test]
fn what_cannot_be_pulled_is_refused_with_a_reason_and_told_once() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let missing = registry.name("none:1");
    let refused = pull_as(&serve, &missing, None).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("manifest unknown"), "{refused:?}");
    let refused = pull_as(&serve, "UPPER/Case", None).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(serve.log().matches("PullImage: InvalidArgument").count(), 1, "{}", serve.log());
}

#[test]
fn the_size_of_images_follows_what_comes_and_goes() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let usage = || {
        let info = serve.run(serve.image().image_fs_info(ImageFsInfoRequest {})).unwrap();
        let usage = info.image_filesystems[0].clone();
        let mountpoint = usage.fs_id.unwrap().mountpoint;
        assert!(std::path::Path::new(&mountpoint).is_dir(), "{mountpoint}");
        assert!(usage.timestamp > 0);
        (usage.used_bytes.unwrap().value, usage.inodes_used.unwrap().value)
    };
    let before = usage();
    registry.big("app:1", 100_000);
    let id = pull(&serve, &registry.name("app:1"));
    let with = usage();
    assert!(with.0 >= before.0 + 100_000 && with.1 > before.1, "{before:?} {with:?}");
    remove(&serve, &id);
    assert_eq!(usage(), before);
}

#[test]
fn an_image_of_an_index_is_known_by_the_digest_that_was_asked_for() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let mut layout = Layout::new();
    let host = coracle::image::platform::host().to_string();
    for (platform, name) in [("linux/s390x", "big"), (host.as_str(), "own")] {
        layout.add(Image { platform, name: None, ..image(name) });
    }
    let digest = registry.layout(&layout, "app:1");
    let name = registry.name(&format!("app@{digest}"));
    let id = pull(&serve, &name);
    let found = status(&serve, &name).unwrap();
    assert_eq!((found.id, found.repo_digests), (id, vec![name]));
}

#[test]
fn equal_pulls_share_the_work_and_equal_removals_all_succeed() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 100_000);
    let name = registry.name("app:1");
    let request = || PullImageRequest { image: named(&name), ..PullImageRequest::default() };
    let mut clients: Vec<_> = (0..5).map(|_| serve.image()).collect();
    let ids = serve.block_on(async {
        let pulls = clients.iter_mut().map(|client| Box::pin(client.pull_image(request())));
        let mut ids = Vec::new();
        // Each is sent before any is waited for.
        for answer in all(pulls.collect()).await {
            ids.push(answer.unwrap().into_inner().image_ref);
        }
        ids
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(registry.count(&layer), 1, "the layer came once");
    let request = || RemoveImageRequest { image: named(&ids[0]) };
    serve.block_on(async {
        let removals = clients.iter_mut().map(|client| Box::pin(client.remove_image(request())));
        for answer in all(removals.collect()).await {
            answer.unwrap();
        }
    });
    assert_eq!(status(&serve, &name), None);
}

/// Waits for all futures, at the same time.
async fn all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in &mut waiting {
            if let Some(one) = future
                && let std::task::Poll::Ready(ready) = std::pin::Pin::new(one).poll(context)
            {
                (*future, *answer) = (None, Some(ready));
            }
        }
        match waiting.iter().all(|(future, _)| future.is_none()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Nothing is on its way into the store.
#[track_caller]
fn wait_for_rest(serve: &Serve) {
    wait_until("the pull to leave nothing", || {
        std::fs::read_dir(serve.path("store/tmp")).unwrap().next().is_none().then_some(())
    });
}

#[test]
fn a_pull_that_nobody_waits_for_ends_and_the_next_one_works() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 200_000);
    let name = registry.name("app:1");
    registry.fault(&layer, 100, Fault::Stall(1000));
    let mut request = tonic::Request::new(PullImageRequest { image: named(&name), ..Default::default() });
    request.set_timeout(std::time::Duration::from_secs(2));
    let refused = serve.run(serve.image().pull_image(request)).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    wait_for_rest(&serve);
    assert_eq!(status(&serve, &name), None);
    registry.heal();
    pull(&serve, &name);
}

#[test]
fn a_pull_without_progress_is_given_up() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::with("images.progress_timeout_seconds = 1\n"), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 200_000);
    registry.fault(&layer, 100, Fault::Stall(1000));
    let refused = pull_as(&serve, &registry.name("app:1"), None).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    assert!(refused.message().contains("no progress for 1 s"), "{refused:?}");
    wait_for_rest(&serve);
}

#[test]
fn a_pull_under_way_does_not_hold_up_the_end_and_a_kill_leaves_nothing() {
    needs!(root, launch_verb);
    let (serve, registry) = (Serve::new(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", 200_000);
    let name = registry.name("app:1");
    registry.fault(&layer, 100, Fault::Stall(1000));
    let pull_and = |signal| {
        registry.forget();
        let mut client = serve.image();
        let request = PullImageRequest { image: named(&name), ..PullImageRequest::default() };
        serve.block_on(async {
            let mut pull = Box::pin(client.pull_image(request));
            loop {
                let soon = tokio::time::timeout(std::time::Duration::from_millis(20), &mut pull);
                assert!(soon.await.is_err(), "it has ended");
                if registry.count(&layer) > 0 {
                    break;
                }
            }
            serve.signal(signal);
            pull.await.unwrap_err()
        });
        serve.wait()
    };
    assert_eq!(pull_and(Signal::TERM).code(), Some(0));
    assert!(!serve.log().contains("did not end in time"), "{}", serve.log());
    serve.start();
    pull_and(Signal::KILL);
    serve.start();
    wait_for_rest(&serve);
    assert_eq!(status(&serve, &name), None);
    registry.heal();
    pull(&serve, &name);
}

#[test]
fn archives_in_the_directory_come_in_pinned_and_are_read_once() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let (images, archive) = (serve.path("images"), serve.path("images/app.tar"));
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("broken.tar.gz"), "no archive").unwrap();
    std::fs::write(images.join("README"), "no archive either").unwrap();
    let layout = Layout::of(Image { name: Some("shipped.example/app:1"), ..image("small") });
    std::fs::write(&archive, layout.tar(true)).unwrap();
    serve.start();
    // Who asks for what is on its way waits for it.
    let found = status(&serve, "shipped.example/app:1").unwrap();
    assert!(found.pinned);
    wait_until("a word of the broken one", || serve.log().contains("broken.tar.gz").then_some(()));
    let accessed = || {
        let record = std::fs::read_to_string(serve.path("store/archives.json")).unwrap();
        assert!(record.contains("app.tar") && !record.contains("broken"), "{record}");
        std::fs::metadata(&archive).unwrap().accessed().unwrap()
    };
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = std::fs::File::options().write(true).open(&archive).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_times(std::fs::FileTimes::new().set_accessed(long_ago).set_modified(modified)).unwrap();
    serve.stop();
    serve.start();
    assert!(status(&serve, "no-such-image").is_none(), "which waits for the import");
    assert_eq!(accessed(), long_ago, "it was read again");
    // What was removed by hand comes back, for the archive is still there.
    remove(&serve, &found.id);
    serve.signal(Signal::HUP);
    wait_until("the image to come back", || status(&serve, &found.id));
    std::fs::remove_file(&archive).unwrap();
    serve.signal(Signal::HUP);
    wait_until("the pin to go", || (!status(&serve, &found.id).unwrap().pinned).then_some(()));
}
