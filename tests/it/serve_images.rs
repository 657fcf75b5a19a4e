//! ImageService of `coracle serve`, with images from a registry of the tests' own.

use coracle_cri::v1::{
    AuthConfig, Image, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest,
};
use tonic::{Code, Status};

use crate::image_fixture::{Layout, image};
use crate::support::Serve;
use crate::support::registry::{Auth, TestRegistry};

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

fn status(serve: &Serve, name: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: named(name), verbose: false };
    serve.run(serve.image().image_status(request)).unwrap().image
}

fn list(serve: &Serve) -> Vec<Image> {
    serve.run(serve.image().list_images(ListImagesRequest::default())).unwrap().images
}

fn remove(serve: &Serve, name: &str) {
    serve.run(serve.image().remove_image(RemoveImageRequest { image: named(name) })).unwrap();
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
