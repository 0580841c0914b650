//! Who a process is: users, groups and the maps of ids.

use std::fs;

use coracle::ErrorKind;
use coracle::namespaces::{Command, IdMap, Stdio, UserNamespace};

use super::common::{self, require};
use super::image::{Image, assert_names, output};

fn image_with_users(name: &str) -> Image {
    let image = Image::new(name);
    let passwd =
        "root:x:0:0::/root:/bin/sh\n1000:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n";
    fs::write(image.root().join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\nextra:x:2000:app,other\nmore:x:2001:app\nforeign:x:2002:other\n";
    fs::write(image.root().join("etc/group"), group).unwrap();
    image
}

#[test]
fn cve_2016_3697_a_numeric_user_name_is_no_way_to_root() {
    require!(common::subordinate_ids());
    let image = image_with_users("numeric");
    for (user, expected) in
        [("1000", "1000 1000"), ("1000:1000", "1000 1000"), ("0", "0 0"), ("app", "1000 1000")]
    {
        let said = output(image.command("sh").args(["-c", "id -u; id -g"]).user(user)).unwrap();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{user}");
    }
}

#[test]
fn cve_2022_36109_2023_25173_2022_2995_groups_are_exact() {
    require!(common::subordinate_ids());
    let image = image_with_users("groups");
    let groups = |change: &dyn Fn(&mut Command) -> &mut Command| {
        let mut command = image.command("id");
        output(change(command.arg("-G"))).unwrap().trim().to_owned()
    };
    assert_eq!(groups(&|c| c), "0");
    assert_eq!(groups(&|c| c.user("app")), "1000 2000 2001");
    assert_eq!(groups(&|c| c.user("app:2002")), "2002");
    assert_eq!(groups(&|c| c.user("app").groups([2002])), "1000 2002");
    assert_eq!(groups(&|c| c.user("app").groups([])), "1000");
    assert_eq!(groups(&|c| c.user("5")), "0");
    let container = image.command("sleep").arg("1000").spawn().unwrap();
    let mut exec = Command::new("id");
    exec.arg("-G").user("app").stdout(Stdio::piped());
    let output = container.exec(&mut exec).unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000 2000 2001\n");
}

#[test]
fn cve_2026_30892_a_user_string_of_no_known_form_is_refused() {
    require!(common::user_namespaces());
    let image = image_with_users("strings");
    let container = image.command("sleep").arg("1000").spawn().unwrap();
    for user in [
        "",
        ":",
        "0x",
        "0x0",
        "1:",
        ":1",
        "-1",
        "+0",
        "1.5",
        "1e3",
        " 0",
        "0 ",
        "0\n",
        "1000\0",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0:-1",
        "root:",
        "a/b",
        "1:2:3",
        "\u{0660}",
    ] {
        let spawned = image.command("id").user(user).spawn();
        let joined = container.exec(Command::new("id").user(user));
        for result in [spawned, joined] {
            let err = result.expect_err(user);
            let kind = err.kind();
            // A name with odd letters may just not be there.
            assert!(
                matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound),
                "{user:?}: {err:?}"
            );
            assert_names(&err, &["user"]);
        }
    }
}

#[test]
fn cve_2021_43784_long_maps_and_paths_are_errors() {
    require!(common::user_namespaces());
    // Where lengths were kept in 16 bits, 65,536 and a little was a little.
    for length in [65_536, 65_540, 70_000, 131_072 + 8] {
        let path = "/x".repeat(length / 2);
        let err = UserNamespace::open(&path).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:?}");
        assert!(format!("{err:#}").len() < 3000, "{} bytes of message", format!("{err:#}").len());
    }
    for count in [341, 5000, 70_000] {
        let map = (0..count).fold(IdMap::new(), |map, i| map.uid(i, 2 * i, 1).gid(i, 2 * i, 1));
        let err = UserNamespace::new(&map).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:?}");
        assert!(format!("{err:#}").len() < 3000, "{err:?}");
    }
}

#[test]
fn cve_2014_8989_groups_cannot_be_dropped_in_a_namespace_of_ones_own() {
    require!(common::not_root());
    require!(common::user_namespaces());
    let image = Image::new("setgroups");
    let users = UserNamespace::new(&IdMap::single()).unwrap();
    let mut command = image.command("cat");
    let said = output(command.arg("/proc/self/setgroups").user_namespace(&users)).unwrap();
    assert_eq!(said, "deny\n");
    let err = image.command("id").user_namespace(&users).groups([7]).spawn().expect_err("groups");
    assert_names(&err, &["7"]);
}
