// SPDX-License-Identifier: Apache-2.0
//! Control calls: the Maitred gRPC service on port 8888, one file per verb.

pub mod launch;
mod mount;
pub mod network;
mod ninep;
mod resize;
mod resolv;
mod shares;
pub mod shutdown;
pub mod targets;
mod time;
pub mod timezone;
mod unmount;

use std::sync::Arc;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::agent::Agent;
use crate::ports;
use crate::stream::Stream;
use crate::transport::{Listener, Transport};

use proto::maitred_server::{Maitred, MaitredServer};
use proto::{
    EmptyMessage, GetKernelVersionResponse, LaunchProcessRequest, LaunchProcessResponse,
    ListeningPort, ListeningPortsResponse, Mount9PRequest, MountRequest, MountResponse,
    NetworkConfigRequest, PortProtocol, ResizeFilesystemRequest, ResizeFilesystemResponse,
    SetResolvConfigRequest, SetTimeRequest, SetTimezoneRequest, UnmountRequest, UnmountResponse,
};

/// Messages and service, generated from `proto/maitred.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/vm_tools.rs"));
}

/// Port of control calls.
pub const PORT: u32 = 8888;

/// Serves connections until the program ends.
pub async fn serve(listener: Listener, transport: Transport, agent: Arc<Agent>) {
    let service = MaitredServer::new(Control {
        agent: Arc::clone(&agent),
        transport,
    });
    loop {
        let stream = listener.accept().await;
        tokio::spawn(serve_one(stream, service.clone(), agent.conversations()));
    }
}

/// Serves one connection. Holding `stopping` tells the shutdown that an answer
/// may still be on its way; when it changes, calls in progress are finished.
async fn serve_one(
    stream: Stream,
    service: MaitredServer<Control>,
    stopping: watch::Receiver<bool>,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    // A broken connection is the peer's to notice.
    tokio::select! {
        _ = &mut connection => {}
        () = Agent::stopped(stopping.clone()) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// The errno of a result, 0 for success.
fn number<T>(result: nix::Result<T>) -> i32 {
    result.err().map_or(0, |errno| errno as i32)
}

/// Runs what may block, such as a server of a share that hangs, on a thread of
/// its own.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> nix::Result<T> + Send + 'static,
) -> nix::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Errno::EIO))
}

/// The service.
struct Control {
    agent: Arc<Agent>,
    transport: Transport,
}

#[tonic::async_trait]
impl Maitred for Control {
    async fn get_kernel_version(
        &self,
        _: Request<EmptyMessage>,
    ) -> Result<Response<GetKernelVersionResponse>, Status> {
        let kernel_version = crate::announce::kernel_release();
        Ok(Response::new(GetKernelVersionResponse { kernel_version }))
    }

    async fn launch_process(
        &self,
        request: Request<LaunchProcessRequest>,
    ) -> Result<Response<LaunchProcessResponse>, Status> {
        launch::launch_process(&self.agent, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        mount::mount(&self.agent, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn mount9_p(
        &self,
        request: Request<Mount9PRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        let error = ninep::mount(&self.agent, &self.transport, request).await;
        Ok(Response::new(MountResponse {
            error: number(error),
        }))
    }

    async fn unmount(
        &self,
        request: Request<UnmountRequest>,
    ) -> Result<Response<UnmountResponse>, Status> {
        let error = unmount::unmount(&self.agent, request.into_inner()).await;
        Ok(Response::new(UnmountResponse {
            error: number(error),
        }))
    }

    async fn resize_filesystem(
        &self,
        request: Request<ResizeFilesystemRequest>,
    ) -> Result<Response<ResizeFilesystemResponse>, Status> {
        let resized = resize::resize(request.into_inner()).await;
        Ok(Response::new(ResizeFilesystemResponse {
            size_bytes: *resized.as_ref().unwrap_or(&0),
            error: number(resized),
        }))
    }

    async fn attach_shares(
        &self,
        request: Request<proto::AttachSharesRequest>,
    ) -> Result<Response<proto::AttachSharesResponse>, Status> {
        shares::attach(&self.agent, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn detach_share(
        &self,
        request: Request<proto::DetachShareRequest>,
    ) -> Result<Response<proto::DetachShareResponse>, Status> {
        shares::detach(&self.agent, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn configure_network(
        &self,
        request: Request<NetworkConfigRequest>,
    ) -> Result<Response<EmptyMessage>, Status> {
        let request = request.into_inner();
        network::configure(request.ipv4_config)?;
        if let Some(config) = request.resolv_config {
            resolv::set(&config)?;
        }
        Ok(Response::new(EmptyMessage {}))
    }

    async fn set_resolv_config(
        &self,
        request: Request<SetResolvConfigRequest>,
    ) -> Result<Response<EmptyMessage>, Status> {
        resolv::set(&request.into_inner().resolv_config.unwrap_or_default())?;
        Ok(Response::new(EmptyMessage {}))
    }

    async fn set_time(
        &self,
        request: Request<SetTimeRequest>,
    ) -> Result<Response<EmptyMessage>, Status> {
        time::set(request.into_inner())?;
        Ok(Response::new(EmptyMessage {}))
    }

    async fn set_timezone(
        &self,
        request: Request<SetTimezoneRequest>,
    ) -> Result<Response<EmptyMessage>, Status> {
        timezone::set(&request.into_inner().timezone_name)?;
        Ok(Response::new(EmptyMessage {}))
    }

    async fn listening_ports(
        &self,
        _: Request<EmptyMessage>,
    ) -> Result<Response<ListeningPortsResponse>, Status> {
        let ports = ports::listening().into_iter().map(|port| ListeningPort {
            protocol: match port.protocol {
                ports::Protocol::Tcp => PortProtocol::Tcp,
                ports::Protocol::Udp => PortProtocol::Udp,
            }
            .into(),
            address: port.address.to_string(),
            port: port.number.into(),
            loopback: port.is_loopback(),
        });
        Ok(Response::new(ListeningPortsResponse {
            ports: ports.collect(),
        }))
    }

    async fn shutdown(&self, _: Request<EmptyMessage>) -> Result<Response<EmptyMessage>, Status> {
        self.agent.request_shutdown();
        Ok(Response::new(EmptyMessage {}))
    }
}
