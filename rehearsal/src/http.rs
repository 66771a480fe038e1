//! The HTTP endpoint: finds out which service a request is for, calls its handler, and wraps the answer in that
//! service's envelope.
//!
//! It owns the protocol between a socket and a handler, and contains no rule of a service. Requests for other services
//! go to `moto` unchanged. Each request is written to the request log, and faults of the protocol (throttling, lost
//! answers) are injected here.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::accept::Failures;
use crate::account::REGION;
use crate::adapters::{RegionAt, with_image};
use crate::admin::{AdminApi, AdminResponse};
use crate::autoscaling;
use crate::cloud::{Cloud, State};
use crate::ec2;
use crate::egress::{self, Refusal};
use crate::elb;
use crate::fault_counters::FaultCounters;
use crate::foreign::{self, Form};
use crate::guests::VmHost;
use crate::ids::{Id as _, InstanceId};
use crate::moto::{Moto, MotoError};
use crate::permissions;
use crate::request::RequestContext;
use crate::request_log::{self, Entry, RequestLog};
use crate::ssm;
use crate::sts;
use crate::wire::error::Protocol;
use crate::wire::{ApiError, Params, Xml, ids};

/// The body of an answer: complete, or a stream from moto.
type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// AWS refuses larger requests of these services too; user data is 16 KiB at most.
const BODY_LIMIT: usize = 1024 * 1024;
/// How long a request's head and its body may each take to arrive. Longer than any client on this host needs; without a
/// limit an idle client would hold its connection.
const PATIENCE: Duration = Duration::from_secs(60);
/// The only call of IAM that is answered here, and IAM's namespace.
const SIMULATE: &str = "SimulatePrincipalPolicy";
const IAM: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
/// Prefix of the admin API; no AWS client requests paths below it.
const ADMIN_PATH: &str = "/_rehearsal/";

/// A service that this cloud implements itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Ec2,
    AutoScaling,
    Elb,
    Ssm,
    Sts,
}

impl Service {
    /// Its name in a SigV4 credential scope.
    fn scope(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::AutoScaling => "autoscaling",
            Self::Elb => "elasticloadbalancing",
            Self::Ssm => "ssm",
            Self::Sts => "sts",
        }
    }

    /// The service of that name in a SigV4 credential scope.
    fn by_scope(name: &str) -> Option<Self> {
        match name {
            "ec2" => Some(Self::Ec2),
            "autoscaling" => Some(Self::AutoScaling),
            "elasticloadbalancing" => Some(Self::Elb),
            "ssm" => Some(Self::Ssm),
            "sts" => Some(Self::Sts),
            _ => None,
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Ec2 => Protocol::Ec2,
            Self::AutoScaling | Self::Elb | Self::Sts => Protocol::Query,
            Self::Ssm => Protocol::Json,
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::Ec2 => "http://ec2.amazonaws.com/doc/2016-11-15/",
            Self::AutoScaling => "http://autoscaling.amazonaws.com/doc/2011-01-01/",
            Self::Elb => "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
            // JSON has no namespaces.
            Self::Ssm => "",
            Self::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
        }
    }
}

/// The HTTP server.
pub(crate) struct HttpServer {
    cloud: Arc<Cloud>,
    moto: Moto,
    host: Arc<dyn VmHost>,
    admin: Arc<AdminApi>,
    fault_counters: Arc<FaultCounters>,
    request_log: RequestLog,
}

/// An answer that a fault drops: the connection closes without it.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer was dropped by the dial lose-answers")
    }
}

impl std::error::Error for Lost {}

/// The error code of an answer, attached for the request log.
#[derive(Clone, Debug)]
struct ErrorCode(Cow<'static, str>);

/// Marks the response to `down`: the daemon exits once it has been sent.
#[derive(Clone, Copy, Debug)]
struct Shutdown;

impl HttpServer {
    /// A server for `cloud`, whose guests run on `host`, with its admin API.
    ///
    /// # Errors
    /// When the request log cannot be written.
    pub(crate) fn new(
        cloud: Arc<Cloud>,
        host: Arc<dyn VmHost>,
        admin: AdminApi,
    ) -> anyhow::Result<Self> {
        let moto = Moto::of_environment(cloud.folder());
        let request_log = RequestLog::open(cloud.folder())?;
        Ok(Self {
            cloud,
            moto,
            host,
            fault_counters: admin.fault_counters(),
            admin: Arc::new(admin),
            request_log,
        })
    }

    /// Serves connections on `listener` until the task is aborted.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut failures = Failures::of("the cloud");
        loop {
            let Some((stream, _)) = failures.pass(listener.accept().await).await else {
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let shuts_down = Arc::new(AtomicBool::new(false));
                let service = service_fn(|request| {
                    let (server, shuts_down) = (Arc::clone(&server), Arc::clone(&shuts_down));
                    async move {
                        let answer = server.answer(request).await;
                        if let Ok(answer) = &answer
                            && answer.extensions().get::<Shutdown>().is_some()
                        {
                            shuts_down.store(true, Ordering::SeqCst);
                        }
                        answer
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a connection ended early");
                }
                if shuts_down.load(Ordering::SeqCst) {
                    server.admin.end();
                }
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Lost> {
        if request.uri().path().starts_with(ADMIN_PATH) {
            return Ok(self.answer_admin(request).await);
        }
        let begun = Instant::now();
        if request.method() == Method::CONNECT {
            return Ok(self.answer_connect(request).await);
        }
        let scope = scope(&request);
        let service = scope.as_ref().map(|scope| scope.service.as_str());
        let agent = request.headers().get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok()?.split_whitespace().next());
        let mut entry = Entry {
            time: self.cloud.now(),
            service: service.and_then(request_log::name),
            action: None,
            status: None,
            error: None,
            ms: 0,
            agent: agent.and_then(request_log::name),
        };
        let region = scope.as_ref().map(|scope| scope.region.as_str());
        let foreign_region = region.filter(|region| *region != REGION);
        let answer = match service.and_then(Service::by_scope) {
            Some(service) => match foreign_region {
                Some(region) => envelope(service, "", &ids::uuid(), Err(other_region(region))),
                None => {
                    self.answer_by_service(service, request, &mut entry.action)
                        .await
                }
            },
            None => {
                let form = Form::of(service, &request);
                match foreign_region {
                    Some(region) => error_response(form, &other_region(region)),
                    None => {
                        self.answer_by_moto(service, form, request, &mut entry.action)
                            .await
                    }
                }
            }
        };
        entry.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let is_lost = match (&entry.service, &entry.action) {
            (Some(service), Some(action)) => self.fault_counters.loses(service, action),
            _ => false,
        };
        if !is_lost {
            entry.status = Some(answer.status().as_u16());
        }
        let code = answer.extensions().get::<ErrorCode>();
        entry.error = code.map(|ErrorCode(code)| code.clone().into_owned());
        self.request_log.write(&entry);
        if is_lost { Err(Lost) } else { Ok(answer) }
    }

    /// Answers CONNECT of a command under `rehearsal exec`: opens a tunnel to another host, unless that is AWS.
    async fn answer_connect(&self, request: Request<Incoming>) -> Response<Body> {
        let begun = Instant::now();
        let mut entry = Entry {
            time: self.cloud.now(),
            service: None,
            action: Some("CONNECT".to_owned()),
            status: None,
            error: None,
            ms: 0,
            agent: None,
        };
        let authorization = request.headers().get(PROXY_AUTHORIZATION);
        let authorization = authorization.and_then(|text| text.to_str().ok());
        let connected = match request.uri().authority() {
            Some(target) => egress::connect(target, authorization).await,
            None => Err(Refusal::Failed("CONNECT names no host".to_owned())),
        };
        let refuse = |status: StatusCode, why: String| {
            let mut answer = plain(status, format!("{why}\n"));
            // Some clients show only the reason phrase of a proxy's answer.
            if let Ok(reason) = ReasonPhrase::try_from(why.into_bytes()) {
                answer.extensions_mut().insert(reason);
            }
            answer
        };
        let answer = match connected {
            Ok(mut there) => {
                tokio::spawn(async move {
                    let upgraded = match hyper::upgrade::on(request).await {
                        Ok(upgraded) => upgraded,
                        Err(error) => {
                            tracing::debug!(%error, "an outgoing connection was abandoned");
                            return;
                        }
                    };
                    let mut here = TokioIo::new(upgraded);
                    // Either side may close the connection.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                });
                plain(StatusCode::OK, "")
            }
            Err(Refusal::Aws(why)) => {
                tracing::warn!("{why}");
                entry.error = Some("RealAws".to_owned());
                refuse(StatusCode::FORBIDDEN, why)
            }
            Err(Refusal::Failed(why)) => {
                entry.error = Some("Unreachable".to_owned());
                refuse(StatusCode::BAD_GATEWAY, why)
            }
        };
        entry.status = Some(answer.status().as_u16());
        entry.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.request_log.write(&entry);
        answer
    }

    /// Has moto answer for a service that this cloud does not implement, where it can; sets `action_name` to the action.
    async fn answer_by_moto(
        &self,
        service: Option<&str>,
        form: Form,
        request: Request<Incoming>,
        action_name: &mut Option<String>,
    ) -> Response<Body> {
        let mut action = form.action(&request);
        let (head, body) = request.into_parts();
        let (read, body) = if foreign::Call::is_read(form, action.as_deref()) {
            match gather(body).await {
                Ok(read) => (read.clone(), whole(read)),
                Err(error) => return error_response(form, &error),
            }
        } else {
            (Bytes::new(), body.boxed_unsync())
        };
        let params = (form == Form::Query).then(|| Params::parse(&read));
        if let Some(params) = &params {
            action = params.string("Action");
        }
        *action_name = action.as_deref().and_then(request_log::name);
        let request = Request::from_parts(head, body);
        let faults = self.cloud.read(|state, _| state.region.faults.clone());
        if let Some(service) = service
            && self
                .fault_counters
                .refuses(service, faults.throttled(service))
        {
            return error_response(form, &form.throttled());
        }
        let call = foreign::Call {
            scope: service,
            form,
            action: action.as_deref(),
            s3: (form == Form::S3).then(|| foreign::S3::of(&request)),
            body: &read,
        };
        if let Some(permission) = call.permission()
            && faults.denies(&permission)
        {
            return error_response(form, &form.denied(permissions::message(&permission)));
        }
        if let (Some("iam"), Some(SIMULATE), Some(params)) = (service, action.as_deref(), &params) {
            return match permissions::simulate(&faults, params) {
                Ok(inside) => {
                    let request_id = ids::uuid();
                    let body = query_envelope(SIMULATE, IAM, &request_id, &inside.into_string());
                    respond(200, "text/xml;charset=UTF-8", &request_id, body)
                }
                Err(error) => error_response(form, &error),
            };
        }
        if let Err(error) = call.check() {
            return error_response(form, &error);
        }
        if let Some(body) = foreign::describe_alarms(&call, faults.alarms()) {
            let mut answer = respond(200, "application/cbor", &ids::uuid(), body);
            let protocol = HeaderValue::from_static("rpc-v2-cbor");
            answer.headers_mut().insert("smithy-protocol", protocol);
            return answer;
        }
        match self.moto.answer(request).await {
            Ok(answer) => answer.map(http_body_util::BodyExt::boxed_unsync),
            Err(why) => moto_error(form, why),
        }
    }

    /// Answers for a service of this cloud; sets `action_name` to the action.
    async fn answer_by_service(
        &self,
        service: Service,
        request: Request<Incoming>,
        action_name: &mut Option<String>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = match gather(body).await {
            Ok(body) => body,
            Err(error) => return envelope(service, "", &ids::uuid(), Err(error)),
        };
        let asked = match parse_request(service, &head, &body) {
            Ok(asked) => asked,
            Err(error) => return envelope(service, "", &ids::uuid(), Err(error)),
        };
        let action = asked.action.clone();
        *action_name = Some(action.clone());
        let request_id = ids::uuid();
        let cloud = Arc::clone(&self.cloud);
        let host = Arc::clone(&self.host);
        let fault_counters = Arc::clone(&self.fault_counters);
        // Handlers are quick, but writing the state waits for the disk.
        let answered = tokio::task::spawn_blocking(move || {
            let every = cloud.read(|state, _| state.region.faults.throttled(service.scope()));
            if fault_counters.refuses(service.scope(), every) {
                return Ok(Err(throttled(service.protocol())));
            }
            let call = permissions::Call {
                service: service.scope(),
                protocol: service.protocol(),
                action: &asked.action,
                params: &asked.params,
                json: &asked.json,
            };
            if let Err(refused) = cloud.read(|state, _| call.check(&state.region)) {
                return Ok(Err(refused));
            }
            if service == Service::Ec2 && asked.action == "GetConsoleOutput" {
                return Ok(console(&cloud, &*host, &asked.params));
            }
            cloud.change_for_caller(Result::is_ok, |state, now| {
                dispatch(service, state, &RequestContext { now }, &asked)
            })
        })
        .await;
        let result = match answered {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(ApiError::internal(format!("{error:#}"))),
            Err(error) => Err(ApiError::internal(error.to_string())),
        };
        envelope(service, &action, &request_id, result)
    }

    /// Answers a request to the admin API.
    async fn answer_admin(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = match gather(body).await {
            Ok(body) => body,
            Err(error) => {
                let status = StatusCode::from_u16(error.status);
                return plain(status.unwrap_or(StatusCode::BAD_REQUEST), error.message);
            }
        };
        let admin = Arc::clone(&self.admin);
        let answered = tokio::task::spawn_blocking(move || {
            let path = head.uri.path().trim_start_matches(ADMIN_PATH);
            admin.answer(&head.method, path, &head.headers, &body)
        })
        .await;
        match answered {
            Ok(Ok(AdminResponse::Text(text))) => plain(StatusCode::OK, text),
            Ok(Ok(AdminResponse::Shutdown)) => {
                let mut answer = plain(StatusCode::OK, "going down\n");
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                answer.extensions_mut().insert(Shutdown);
                answer
            }
            Ok(Err((status, why))) => plain(status, why),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// Reads a whole body.
///
/// # Errors
/// When it is too large, ends early, or does not arrive in time.
async fn gather<B>(body: B) -> Result<Bytes, ApiError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = Limited::new(body, BODY_LIMIT).collect();
    match tokio::time::timeout(PATIENCE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            "RequestEntityTooLarge",
            format!("the request is larger than {BODY_LIMIT} bytes"),
        )
        .with_status(413)),
        Ok(Err(error)) => Err(ApiError::new(
            "IncompleteBody",
            format!("the request's body ended early: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            "RequestTimeout",
            format!(
                "the request's body did not arrive within {} s",
                PATIENCE.as_secs()
            ),
        )
        .with_status(408)),
    }
}

/// A request, parsed.
struct ParsedRequest {
    action: String,
    /// The parameters, in the query protocols.
    params: Params,
    /// The body, in the JSON protocol.
    json: serde_json::Value,
}

fn parse_request(service: Service, head: &Parts, body: &[u8]) -> Result<ParsedRequest, ApiError> {
    if service.protocol() == Protocol::Json {
        let target = head.headers.get("x-amz-target");
        let target = target.and_then(|target| target.to_str().ok());
        let (_, action) = target
            .and_then(|target| target.split_once('.'))
            .ok_or_else(|| ApiError::new("UnknownOperationException", "no X-Amz-Target"))?;
        let json = serde_json::from_slice(body)
            .map_err(|error| ApiError::new("SerializationException", error.to_string()))?;
        return Ok(ParsedRequest {
            action: checked(action, "UnknownOperationException")?,
            params: Params::default(),
            json,
        });
    }
    let mut params = Params::parse(body);
    params.merge(Params::parse(
        head.uri.query().unwrap_or_default().as_bytes(),
    ));
    let action = params
        .text("Action")
        .filter(|action| !action.is_empty())
        .ok_or_else(|| ApiError::new("MissingAction", "no Action was given"))?;
    Ok(ParsedRequest {
        action: checked(action, "InvalidAction")?,
        params,
        json: serde_json::Value::Null,
    })
}

/// Checks an action's name: it becomes part of an XML element's name.
fn checked(action: &str, code: &'static str) -> Result<String, ApiError> {
    let is_name = action.len() <= 128 && action.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_name || action.is_empty() {
        return Err(ApiError::new(code, "that is not the name of an action"));
    }
    Ok(action.to_owned())
}

/// A service's throttling error.
fn throttled(protocol: Protocol) -> ApiError {
    match protocol {
        Protocol::Ec2 => {
            ApiError::new("RequestLimitExceeded", "Request limit exceeded.").with_status(503)
        }
        Protocol::Query => ApiError::new("Throttling", "Rate exceeded"),
        Protocol::Json => ApiError::new("ThrottlingException", "Rate exceeded"),
    }
}

/// A handler's answer.
enum Answer {
    /// The content of an XML envelope.
    Xml(Xml),
    /// Reads a whole body.
    Json(serde_json::Value),
}

/// Calls the service's handler.
fn dispatch(
    service: Service,
    state: &mut State,
    ctx: &RequestContext,
    asked: &ParsedRequest,
) -> Result<Answer, ApiError> {
    let ParsedRequest {
        action,
        params,
        json,
    } = asked;
    let region = &mut state.region;
    let xml = match service {
        Service::Ec2 if action == "RunInstances" => {
            let params = with_image(region, params)?;
            ec2::handle(&mut region.ec2, ctx, action, &params)
        }
        Service::Ec2 => ec2::handle(&mut region.ec2, ctx, action, params),
        Service::AutoScaling => {
            let mut environment = RegionAt {
                region,
                now: ctx.now,
            };
            autoscaling::handle(
                &mut state.autoscaling,
                &mut environment,
                ctx,
                action,
                params,
            )
        }
        Service::Elb => elb::handle(&mut region.elb, &mut region.ec2, ctx, action, params),
        Service::Ssm => {
            return ssm::handle(&mut region.ssm, &region.ec2, ctx, action, json).map(Answer::Json);
        }
        Service::Sts if action == "GetCallerIdentity" => Ok(sts::caller_identity(ctx)),
        Service::Sts => Err(ApiError::invalid_action(action)),
    };
    xml.map(Answer::Xml)
}

/// GetConsoleOutput, the only call that needs the VM host. The cloud is not locked meanwhile, since the host itself may
/// be reading it.
fn console(cloud: &Cloud, host: &dyn VmHost, params: &Params) -> Result<Answer, ApiError> {
    let id = InstanceId::required(params, "InstanceId")?;
    cloud.read(|state, _| state.region.ec2.instance(&id).map(drop))?;
    let action_name = host.console(&id);
    cloud
        .read(|state, now| ec2::console_output(&state.region.ec2, now, params, &action_name))
        .map(Answer::Xml)
}

/// The parts of a SigV4 credential scope that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    region: String,
    service: String,
}

/// The SigV4 credential scope of a signed request
/// (`…Credential=AKIA…/20260101/us-east-1/ec2/aws4_request, …`) or of a presigned one.
fn scope<B>(request: &Request<B>) -> Option<Scope> {
    let read = |credential: &str| {
        let mut parts = credential.split('/').skip(2).map(str::to_owned);
        let (region, service) = (parts.next()?, parts.next()?);
        // SigV4A, which signs for every region, names none.
        Some(if service == "aws4_request" {
            Scope {
                region: REGION.to_owned(),
                service: region,
            }
        } else {
            Scope { region, service }
        })
    };
    if let Some(authorization) = request.headers().get(AUTHORIZATION) {
        let (_, credential) = authorization.to_str().ok()?.split_once("Credential=")?;
        return read(credential.split([',', ' ']).next()?);
    }
    form_urlencoded::parse(request.uri().query()?.as_bytes())
        .find(|(name, _)| name == "X-Amz-Credential")
        .and_then(|(_, credential)| read(&credential))
}

/// An error in the protocol of the request.
fn error_response(form: Form, error: &ApiError) -> Response<Body> {
    let request_id = ids::uuid();
    let (kind, body) = form.render(error, &request_id);
    let mut answer = with_code(error, respond(error.status, kind, &request_id, body));
    if form == Form::Cbor {
        let protocol = HeaderValue::from_static("rpc-v2-cbor");
        answer.headers_mut().insert("smithy-protocol", protocol);
    }
    if form == Form::RestJson
        && let Ok(code) = HeaderValue::from_str(&error.code)
    {
        answer.headers_mut().insert("x-amzn-errortype", code);
    }
    answer
}

/// The error for a call that moto does not answer. Clients do not retry a call that is not implemented (501).
fn moto_error(form: Form, moto_error: MotoError) -> Response<Body> {
    let error = match moto_error {
        MotoError::Missing(why) => ApiError::new("NotImplemented", why).with_status(501),
        MotoError::Broken(why) => ApiError::new("ServiceUnavailable", why).with_status(503),
    };
    error_response(form, &error)
}

/// Refuses a request for another region: its resources would be created in this one.
fn other_region(region: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!(
            "the rehearsal cloud has the region {REGION} only, and the request is for {region}; set AWS_REGION={REGION}"
        ),
    )
}

fn envelope(
    service: Service,
    action: &str,
    request_id: &str,
    result: Result<Answer, ApiError>,
) -> Response<Body> {
    let (status, kind, body) = match result {
        Ok(Answer::Json(json)) => (200, "application/x-amz-json-1.1", json.to_string()),
        Ok(Answer::Xml(xml)) => {
            let (inside, namespace) = (xml.into_string(), service.namespace());
            let body = match service.protocol() {
                Protocol::Ec2 => format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{namespace}\">\
                     <requestId>{request_id}</requestId>{inside}</{action}Response>"
                ),
                Protocol::Query | Protocol::Json => {
                    query_envelope(action, namespace, request_id, &inside)
                }
            };
            (200, "text/xml;charset=UTF-8", body)
        }
        Err(error) => {
            let (kind, body) = error.render(service.protocol(), request_id);
            return with_code(&error, respond(error.status, kind, request_id, body));
        }
    };
    respond(status, kind, request_id, body)
}

fn query_envelope(action: &str, namespace: &str, request_id: &str, inside: &str) -> String {
    format!(
        "<{action}Response xmlns=\"{namespace}\"><{action}Result>{inside}</{action}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )
}

/// Attaches the code of `error` to its answer, for the request log.
fn with_code(error: &ApiError, mut answer: Response<Body>) -> Response<Body> {
    answer
        .extensions_mut()
        .insert(ErrorCode(error.code.clone()));
    answer
}

fn respond(
    status: u16,
    kind: &'static str,
    request_id: &str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = status;
    response
}

/// A complete body.
fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    #[test]
    fn an_action_is_a_name_or_refused() {
        for (form, expected) in [
            ("Action=DescribeImages", Ok("DescribeImages")),
            ("Action=", Err("MissingAction")),
            ("Version=2016-11-15", Err("MissingAction")),
            ("Action=A%3E%3Cscript", Err("InvalidAction")),
        ] {
            let (head, ()) = Request::new(()).into_parts();
            let asked = parse_request(Service::Ec2, &head, form.as_bytes());
            let asked = asked.map(|asked| asked.action).map_err(|error| error.code);
            assert_eq!(asked.as_deref().map_err(|code| &**code), expected, "{form}");
        }
    }

    /// A body of so many pieces, after which it ends, breaks off, or never goes on.
    struct Pieces(usize, Poll<Option<&'static str>>);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Box<dyn std::error::Error + Send + Sync>;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            if self.0 == 0 {
                return self.1.map(|then| then.map(|why| Err(why.into())));
            }
            self.0 -= 1;
            let piece = Bytes::from(vec![b'x'; 1 << 16]);
            Poll::Ready(Some(Ok(Frame::data(piece))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_bodies_are_refused_with_the_right_error() {
        let ends = Poll::Ready(None);
        let whole = gather(Pieces(2, ends)).await;
        assert_eq!(whole.map(|body| body.len()), Ok(1 << 17));
        for (pieces, then, code) in [
            (17, ends, "RequestEntityTooLarge"),
            (1, Poll::Ready(Some("broken")), "IncompleteBody"),
            (0, Poll::Ready(Some("broken")), "IncompleteBody"),
            (1, Poll::Pending, "RequestTimeout"),
        ] {
            let refused = gather(Pieces(pieces, then)).await.expect_err(code);
            assert_eq!(refused.code, code, "{pieces} pieces");
        }
    }

    #[test]
    fn every_service_is_found_by_its_scope() {
        for service in [
            Service::Ec2,
            Service::AutoScaling,
            Service::Elb,
            Service::Ssm,
            Service::Sts,
        ] {
            assert_eq!(
                Service::by_scope(service.scope()),
                Some(service),
                "{service:?}"
            );
            assert!(
                crate::faults::services().any(|name| name == service.scope()),
                "{service:?}"
            );
        }
    }

    #[test]
    fn the_scope_selects_the_service() {
        let table = [
            (
                Some(
                    "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/ssm/aws4_request, SignedHeaders=host",
                ),
                "/",
                Some("ssm"),
            ),
            (
                Some("Bearer x"),
                "/?X-Amz-Credential=AKIA%2F1%2Fus-east-1%2Fs3%2Faws4_request",
                None,
            ),
            (
                None,
                "/b/k?X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request",
                Some("s3"),
            ),
            (
                Some(
                    "AWS4-ECDSA-P256-SHA256 Credential=AKIA/20260101/s3/aws4_request, Signature=1",
                ),
                "/b/k",
                Some("s3"),
            ),
            (None, "/b/k", None),
        ];
        for (authorization, uri, expected) in table {
            let mut request = Request::builder().uri(uri);
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request.body(()).unwrap();
            let found = scope(&request);
            let found = found.as_ref().map(|scope| scope.service.as_str());
            assert_eq!(found, expected, "{uri}");
        }
    }
}
