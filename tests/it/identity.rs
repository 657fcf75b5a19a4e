//! Who a container runs as: a number is a number, and what is no id is refused wherever it comes in.
//!
//! Configurations with such ids are among the broken bundles; see `oci_broken`.

use std::path::Path;

use coracle_cri::v1::*;
use serde_json::json;
use tonic::Code;

use crate::launch::{import, import_as, prepare, with_image};
use crate::support::{Serve, code, container, pod_on_host};

/// Lines by which an image would take over the user 1000, and the group.
const HOSTILE_PASSWD: &str = "1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n\
    top:x:4294967295:0::/:\nbig:x:4294967296:0::/:\nminus:x:-1:0::/:\n";
const HOSTILE_GROUP: &str = "1000:x:0:\nroot:x:0:\nweb:x:1000:\naudio:x:29:web\ntop:x:4294967295:web\n";

/// What is neither a number nor a name, or a number that is no id.
const NO_IDS: [&str; 12] = [
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "-1",
    "+5",
    " 5",
    "0x10",
    "1000:",
    ":1000",
    "0:4294967295",
    "0:-1",
    "1:2:3",
];

fn hostile(root: &Path) {
    std::fs::write(root.join("etc/passwd"), HOSTILE_PASSWD).unwrap();
    std::fs::write(root.join("etc/group"), HOSTILE_GROUP).unwrap();
}

#[test]
fn an_image_does_not_decide_who_a_number_is() {
    needs!(root, busybox, launch_verb);
    let sandbox = crate::support::Sandbox::new();
    import(&sandbox, json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "User": "1000" }), hostile);
    let id = |name: &str, flags: &[&str]| {
        let script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' ') $HOME";
        let run = prepare(&sandbox, name, ["--rm"]).args(flags).args(["box", "sh", "-c", script]);
        run.go().ok().stdout.trim().to_owned()
    };
    // By its number the user has the line of that uid: its home and its groups.
    assert_eq!(id("image", &[]), "1000 1000 29 1000 /srv");
    assert_eq!(id("flag", &["--user=1000"]), "1000 1000 29 1000 /srv");
    assert_eq!(id("zeros", &["--user=0001000"]), "1000 1000 29 1000 /srv");
    assert_eq!(id("both", &["--user=1000:1000"]), "1000 1000 1000 /srv");
    assert_eq!(id("named", &["--user=web:1000"]), "1000 1000 1000 /srv");
    assert_eq!(id("added", &["--user=1234:5", "--group-add=1000"]), "1234 5 5 1000 /");
    // Without a line there is nothing but the number.
    assert_eq!(id("alone", &["--user=77"]), "77 0 0 /");
}

#[test]
fn what_is_no_id_starts_nothing() {
    needs!(root, busybox, launch_verb);
    let sandbox = crate::support::Sandbox::new();
    import(&sandbox, json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] }), hostile);
    for (number, user) in NO_IDS.iter().chain(&["top", "big", "minus", "0:top"]).enumerate() {
        let run =
            prepare(&sandbox, &format!("no{number}"), [&format!("--user={user}"), "box", "echo", "ran"]);
        let output = run.go();
        assert!(!output.stdout.contains("ran"), "{user:?}: {output}");
        assert!(output.code() != Some(0) && output.stderr.contains("id"), "{user:?}: {output}");
    }
    for group in ["4294967295", "-1", "+5", "top"] {
        let flag = format!("--group-add={group}");
        let output = prepare(&sandbox, "group", [&flag, "box", "echo", "ran"]).go();
        assert!(output.code() != Some(0) && !output.stdout.contains("ran"), "{group:?}: {output}");
    }
    std::fs::rename(sandbox.path("bundles/minimal"), sandbox.path("bundles/image")).unwrap();
    let bundle = sandbox.bundle("minimal").script("sleep 100");
    sandbox.run_detached(&bundle, "running", &[]).ok();
    for user in NO_IDS {
        let exec = sandbox.runtime(["exec", &format!("--user={user}"), &sandbox.id("running"), "id"]);
        assert!(exec.code() != Some(0) && exec.stderr.contains("--user"), "{user:?}: {exec}");
    }
    for group in ["4294967295", "+5", "0x10", ""] {
        let flag = format!("--additional-gids={group}");
        let exec = sandbox.runtime(["exec", &flag, &sandbox.id("running"), "id"]);
        assert!(exec.code() != Some(0) && exec.stderr.contains("--additional-gids"), "{group:?}: {exec}");
    }
}

#[test]
fn an_image_with_such_a_user_starts_nothing() {
    needs!(root, busybox, launch_verb);
    for user in NO_IDS {
        let sandbox = with_image(json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "User": user }));
        let output = prepare(&sandbox, "bad", ["box", "echo", "ran"]).go();
        assert!(output.code() != Some(0) && !output.stdout.contains("ran"), "{user:?}: {output}");
    }
}

fn named(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

fn image_of(serve: &Serve, name: &str) -> Image {
    let image = named(name);
    let request = ImageStatusRequest { image, verbose: false };
    serve.run(serve.image().image_status(request)).unwrap().image.unwrap()
}

#[test]
fn run_as_user_outranks_the_image() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    import_as(serve.sandbox(), "hostile", json!({ "Env": ["PATH=/bin"], "User": "1000:1000" }), hostile);
    let image = image_of(&serve, "hostile");
    assert_eq!((image.uid.map(|uid| uid.value), image.username.as_str()), (Some(1000), ""));
    let pod = serve.logged(pod_on_host("users"));
    let id = serve.run_pod(&pod);
    let run = |name: &str, change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        let image = named("hostile");
        let mut config = ContainerConfig { image, ..container(&pod, name, "sleep 100") };
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        serve.run_container(&id, &pod, &config)
    };
    let number = |value| Some(Int64Value { value });
    let as_number = run("number", &|c| c.run_as_user = number(1000));
    let ids = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)";
    assert_eq!(serve.output_in(&as_number, ids), "1000 1000 29 1000");
    let of_image = run("image", &|_| ());
    assert_eq!(serve.output_in(&of_image, ids), "1000 1000 29 1000");
    let strict = run("strict", &|c| {
        c.run_as_user = number(1000);
        c.run_as_group = number(7);
        c.supplemental_groups = vec![8];
        c.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
    });
    assert_eq!(serve.output_in(&strict, ids), "1000 7 7 8");
    // kubelet takes the name from the image: a number is one there too.
    let by_name = run("by-name", &|c| c.run_as_username = "1000".to_owned());
    assert_eq!(serve.output_in(&by_name, "id -u"), "1000");
    for name in NO_IDS.iter().chain(&["top", "big", "minus", "web:0"]) {
        let mut config = ContainerConfig { image: named("hostile"), ..container(&pod, "bad", "sleep 100") };
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.run_as_username = (*name).to_owned();
        assert_eq!(code(serve.try_create(&id, &pod, &config)), Code::InvalidArgument, "{name:?}");
    }
    serve.removes_all();
}

#[test]
fn the_status_of_an_image_never_takes_what_is_no_id_for_one() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("none"));
    let id = serve.run_pod(&pod);
    for (number, user) in ["4294967295", "4294967296", "-1", "+5", "0x10"].into_iter().enumerate() {
        let name = format!("bad{number}");
        import_as(serve.sandbox(), &name, json!({ "Env": ["PATH=/bin"], "User": user }), hostile);
        let image = image_of(&serve, &name);
        assert_eq!((image.uid, image.username.as_str()), (None, user));
        let config = ContainerConfig { image: named(&name), ..container(&pod, "c", "id") };
        assert_eq!(code(serve.try_create(&id, &pod, &config)), Code::InvalidArgument, "{user:?}");
    }
    serve.removes_all();
}
