//! What an S3 service has besides objects: TLS with an authority of its own, encryption by the service, credentials that come from the
//! instance or from a web identity.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::store::{Piece, S3Store, Store, StoreError};
use pitr_integration::{
    BUCKET, Daemon, Dialect, FaultProxy, Finished, ObjectServer, Port, Postgres, Process, Settings,
    Site, V17, wait_until,
};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(120);

/// Ends TLS before a server that has none: the port to listen at, the server's, and the directory of `server.crt` and `server.key`.
const TLS_FRONT: &str = "\
import socket, ssl, sys, threading
port, upstream, pki = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pki + '/server.crt', pki + '/server.key')
def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def serve(client):
    try:
        secure = context.wrap_socket(client, server_side=True)
    except (ssl.SSLError, OSError):
        return
    server = socket.create_connection(('127.0.0.1', upstream))
    threading.Thread(target=pump, args=(secure, server), daemon=True).start()
    pump(server, secure)
listener = socket.create_server(('127.0.0.1', port))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// An authority, and a certificate of it for `localhost`.
fn authority(site: &Site, name: &str) -> PathBuf {
    let directory = site.directory(name);
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let command = command.args(arguments.split_whitespace());
        Finished::run(command.current_dir(&directory)).success("openssl (run `make deps`)");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=authority-{name} -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.crt"
    ));
    openssl(&format!(
        "req -new {key} -subj /CN=localhost -keyout server.key -out server.csr"
    ));
    let extensions = "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";
    std::fs::write(directory.join("san"), extensions).expect("write");
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt",
    );
    directory
}

fn tls_front(site: &Site, upstream: u16, pki: &Path) -> (Port, Process) {
    let port = Port::reserve();
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "python3", "-c", TLS_FRONT])
        .args([port.number().to_string(), upstream.to_string()])
        .arg(pki);
    let process = Process::spawn(command, &site.path("front.log"));
    wait_until("the front to listen", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port.number())).is_ok()
    });
    (port, process)
}

#[test]
fn a_service_is_trusted_by_the_authority_that_is_named_and_by_no_other() {
    let site = Site::new("s3tls");
    let server = ObjectServer::start(&site, Dialect::Ministack);
    let (pki, other) = (authority(&site, "ours"), authority(&site, "others"));
    let (port, _front) = tls_front(&site, server.number(), &pki);
    let runtime = Runtime::new().unwrap();
    let credentials = server.credentials();
    let (place, credentials) = (port.number(), credentials.display());
    let connect = |authority: &str| {
        let url = format!(
            "s3://{BUCKET}/tls?endpoint=https://localhost:{place}&region=us-east-1&credentials_file={credentials}{authority}"
        );
        runtime
            .block_on(S3Store::connect(url.parse().unwrap()))
            .unwrap()
    };
    let body = Bytes::from_static(b"over TLS");
    let trusting = connect(&format!("&ca_file={}/ca.crt", pki.display()));
    runtime.block_on(async {
        trusting.put_if_absent("a", body.clone()).await.unwrap();
        let again = trusting.put_if_absent("a", body.clone()).await;
        assert!(
            matches!(again, Err(StoreError::AlreadyExists { .. })),
            "{again:?}"
        );
        let read = trusting.get("a", Piece::Whole).await.unwrap();
        assert_eq!(read.bytes, body);
    });
    let wrong = format!("&ca_file={}/ca.crt", other.display());
    for authority in ["", wrong.as_str()] {
        let refusing = connect(authority);
        let error = runtime.block_on(refusing.put_if_absent("b", body.clone()));
        let said = error.unwrap_err().to_string().to_lowercase();
        assert!(said.contains("certificate"), "{said}");
    }
}

#[test]
fn what_the_service_is_to_encrypt_is_asked_for_with_every_object() {
    let site = Site::new("s3sse");
    let server = ObjectServer::start(&site, Dialect::Ministack);
    let runtime = Runtime::new().unwrap();
    for (number, (setting, wanted)) in [
        ("aes256", ["x-amz-server-side-encryption: aes256", ""]),
        (
            "kms:orders-key",
            [
                "x-amz-server-side-encryption: aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id: orders-key",
            ],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let url = format!("{}&sse={setting}", server.url(&format!("sse{number}")));
        runtime.block_on(async {
            let store = S3Store::connect(url.parse().unwrap()).await.unwrap();
            let body = Bytes::from_static(b"twice encrypted");
            store.put_if_absent("log/a/0", body.clone()).await.unwrap();
            store
                .put_replacing("log/a/head", body.clone())
                .await
                .unwrap();
            let read = store.get("log/a/0", Piece::Whole).await.unwrap();
            assert_eq!(read.bytes, body);
        });
        for key in ["log/a/0", "log/a/head"] {
            let path = format!("/{BUCKET}/sse{number}/{key}");
            let head = server.ask("HEAD", &path, "").text.to_lowercase();
            for wanted in wanted {
                assert!(head.contains(wanted), "{setting}: {head}");
            }
        }
    }
}

/// An HTTP server that answers with what `answer` says of a request's first line.
fn answering(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().expect("a socket"));
            let (mut first, mut length) = (String::new(), 0);
            lines.read_line(&mut first).expect("a request");
            loop {
                let mut line = String::new();
                if lines.read_line(&mut line).expect("a header") <= 2 {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut lines, &mut body).expect("a body");
            let said = answer(&format!(
                "{} {}",
                first.trim(),
                String::from_utf8_lossy(&body)
            ));
            // A client that has gone needs no answer.
            let _ = write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\
                 Connection: close\r\n\r\n{said}",
                said.len()
            );
        }
    });
    port
}

/// An archive, and what `pitr-tool verify` signs its calls with when its environment is `variables` and nothing else names credentials.
fn signed_with(
    name: &str,
    variables: impl Fn(&Site) -> Vec<(&'static str, String)>,
) -> Vec<String> {
    let site = Site::new(name);
    let store = ObjectServer::start(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("orders"));
    let daemon = Daemon::prepare(&site, settings);
    let proxy = FaultProxy::start(store.number());
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    proxy.script(move |call| {
        seen.lock().unwrap().push(call.access_key.clone());
        None
    });
    let url = format!(
        "s3://{BUCKET}/orders?endpoint=http://127.0.0.1:{}&region=us-east-1",
        proxy.port()
    );
    let mut command = site.command(&site.program(pitr_integration::Program::PitrTool));
    command.args(["--archive", &url, "verify"]);
    for (name, value) in variables(&site) {
        command.env(name, value);
    }
    Finished::run(&mut command).success("verify");
    drop(daemon);
    let keys = keys.lock().unwrap().clone();
    assert!(!keys.is_empty());
    keys
}

fn expiration() -> &'static str {
    "2099-01-01T00:00:00Z"
}

#[test]
fn credentials_come_from_the_instance() {
    let metadata = answering(|request| {
        let document = format!(
            "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"INSTANCE\",\"SecretAccessKey\":\"s\",\
             \"Token\":\"t\",\"LastUpdated\":\"2020-01-01T00:00:00Z\",\"Expiration\":\"{}\"}}",
            expiration()
        );
        match request {
            request if request.contains("/api/token") => "a-token".into(),
            request if request.contains("/security-credentials/backup") => document,
            request if request.contains("/security-credentials") => "backup".into(),
            _ => String::new(),
        }
    });
    let keys = signed_with("s3imds", |_| {
        let endpoint = format!("http://127.0.0.1:{metadata}");
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)]
    });
    assert!(keys.iter().all(|key| key == "INSTANCE"), "{keys:?}");
}

#[test]
fn credentials_come_from_a_web_identity() {
    let tokens = answering(|request| {
        assert!(request.contains("AssumeRoleWithWebIdentity"), "{request}");
        assert!(
            request.contains("WebIdentityToken=a-web-token"),
            "{request}"
        );
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEBIDENTITY</AccessKeyId>\
             <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            expiration()
        )
    });
    let keys = signed_with("s3web", |site| {
        let token = site.path("web-token");
        site.write(&token, "a-web-token", 0o600);
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
            (
                "AWS_ROLE_ARN",
                "arn:aws:iam::123456789012:role/backup".into(),
            ),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT_URL_STS", format!("http://127.0.0.1:{tokens}")),
        ]
    });
    assert!(keys.iter().all(|key| key == "WEBIDENTITY"), "{keys:?}");
}
