//! Servers, and clients that find them on loopback and by a socket in a volume.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{self, require};
use crate::{IMAGE, Scene};

#[test]
fn redis_serves_other_containers_and_keeps_its_data() {
    let scene = require!(Scene::new("redis"));
    let socket = "/var/lib/redis/socket";
    let server = ["redis-server", "--dir", "/var/lib/redis", "--unixsocket", socket];
    let volume = ["-v", "redis:/var/lib/redis", "-u", "redis"];
    scene.starts(&volume, &server);
    scene.until(&["redis-cli", "ping"]);
    // Another container, in another range of ids and another network.
    let client = ["run", "--rm", "-u", "redis", "-v", "redis:/var/lib/redis", IMAGE];
    let set = ["redis-cli", "-s", socket, "set", "answer", "41"];
    assert_eq!(scene.says(&[&client[..], &set].concat()), "OK");
    assert_eq!(scene.exec(&[], &["redis-cli", "incr", "answer"]), "42");
    let load = ["redis-benchmark", "-q", "-t", "set", "-n", "2000", "-c", "50"];
    assert!(scene.exec(&[], &load).contains("requests per second"));
    // It writes all down from a copy of itself, and once more when it is asked to end.
    assert_eq!(scene.exec(&[], &["redis-cli", "bgsave"]), "Background saving started");
    scene.until(&["sh", "-c", "redis-cli info persistence | grep rdb_bgsave_in_progress:0"]);
    scene.exec(&[], &["redis-cli", "incr", "answer"]);
    assert_eq!(scene.says(&["restart", "redis"]), "redis");
    scene.until(&["redis-cli", "ping"]);
    assert_eq!(scene.exec(&[], &["redis-cli", "get", "answer"]), "43");
    assert_eq!(scene.says(&["stop", "redis"]), "redis");
    assert_eq!(scene.picked("{{.State.ExitCode}}"), "0");
    assert!(scene.says(&["logs", "redis"]).contains("ready to exit, bye bye"));
}

#[test]
fn nginx_serves_a_directory_of_the_host() {
    let scene = require!(Scene::new("nginx"));
    let page = scene.dir.file("site/index.html", "first");
    let site = format!("{}:/var/www/html:ro", page.parent().unwrap().display());
    scene.starts(&["-v", &site], &["nginx", "-g", "daemon off;"]);
    let get = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1/').read())";
    let get = ["python3", "-c", get];
    scene.until(&get);
    assert_eq!(scene.exec(&[], &get), "b'first'");
    fs::write(&page, "second").unwrap();
    assert_eq!(scene.exec(&[], &get), "b'second'");
    // Root has become another user for the work, and still may tell that one to end.
    let workers = || scene.exec(&[], &["pgrep", "-u", "www-data", "nginx"]);
    let before = workers();
    scene.exec(&[], &["nginx", "-s", "reload"]);
    let gone = format!("! kill -0 {}", before.lines().next().unwrap());
    scene.until(&["sh", "-c", &gone]);
    assert_ne!(workers(), before);
    assert_eq!(scene.exec(&[], &get), "b'second'");
    let log = [
        "sh",
        "-c",
        "stat -c %U:%G /var/log/nginx/access.log; grep -c GET /var/log/nginx/access.log",
    ];
    assert!(scene.exec(&[], &log).starts_with("www-data:adm\n"));
    assert_eq!(
        scene.exec(&[], &["sh", "-c", "echo x > /var/www/html/x || echo refused"]),
        "refused"
    );
    assert_eq!(scene.says(&["stop", "nginx"]), "nginx");
    assert_eq!(scene.picked("{{.State.ExitCode}}"), "0");
}

/// As the scripts of images do it: root makes the directories, and becomes the user.
const POSTGRES: &str = "set -e
    PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
    as_postgres='setpriv --reuid=postgres --regid=postgres --init-groups'
    install -d -o postgres -g postgres /run/postgresql
    chown postgres:postgres /srv/data
    [ -e /srv/data/PG_VERSION ] || $as_postgres initdb -D /srv/data --no-sync
    exec $as_postgres postgres -D /srv/data -c fsync=off";

#[test]
fn postgresql_makes_a_database_and_recovers_it() {
    let scene = require!(Scene::new("postgres"));
    let options = ["-v", "postgres:/srv/data", "-e", "LC_ALL=C.UTF-8", "--stop-signal", "INT"];
    scene.starts(&options, &["sh", "-c", POSTGRES]);
    let query = |sql: &str| {
        let psql = ["psql", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql];
        scene.exec(&["-u", "postgres"], &psql)
    };
    let ready = || scene.until(&["pg_isready", "-q"]);
    ready();
    query("create table numbers as select generate_series(1, 100000) as number");
    assert_eq!(query("select sum(number), current_user from numbers"), "5000050000|postgres");
    // Side by side, by shared memory in /dev/shm.
    let parallel = "set force_parallel_mode = on; explain (analyze, costs off, timing off) \
                    select count(*) from numbers where number % 7 = 0";
    assert!(query(parallel).contains("Workers Launched: 1"), "{}", query(parallel));
    let stat = ["stat", "-c", "%U:%G %a", "/srv/data", "/run/postgresql/.s.PGSQL.5432"];
    assert_eq!(scene.exec(&[], &stat), "postgres:postgres 700\npostgres:postgres 777");
    if common::root().is_ok() {
        let data = scene.says(&["volume", "inspect", "-f", "{{.Mountpoint}}", "postgres"]);
        let owner = fs::metadata(data).unwrap().uid().to_string();
        assert_eq!(scene.exec(&[], &["id", "-u", "postgres"]), owner, "the same on the disk");
    }

    // Killed in the middle of the work, it recovers what it has said that it keeps.
    query("insert into numbers values (7)");
    scene.says(&["kill", "postgres"]);
    scene.says(&["wait", "postgres"]);
    scene.says(&["start", "postgres"]);
    ready();
    assert_eq!(query("select count(*) from numbers"), "100001");
    assert!(scene.ran(&["logs", "postgres"]).err.contains("automatic recovery in progress"));
    assert_eq!(scene.says(&["stop", "postgres"]), "postgres");
    assert_eq!(scene.picked("{{.State.ExitCode}}"), "0");
}
