//! ImageService: one short method for each call.

use prost::Message;
use tonic::{Request, Response, Status};

use crate::backend::{Backend, ImageBackend};
use crate::error::{Error, Result};
use crate::lanes::Lane;
use crate::parts::Parts;
use crate::response::respond;
use crate::server::Server;
use crate::v1::image_service_server::ImageService;
use crate::v1::*;

type RpcResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<B: Backend> ImageService for Server<B> {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> RpcResult<ListImagesResponse> {
        let images = self.images(request.into_inner().filter).await?;
        respond(Ok(ListImagesResponse { images }))
    }

    type StreamImagesStream = Parts<StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> RpcResult<Self::StreamImagesStream> {
        let images = self.images(request.into_inner().filter).await?;
        respond(Ok(self.parts(images, |images| StreamImagesResponse { images })))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> RpcResult<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let image = named(image)?;
        respond(self.ask(Lane::Image, move |node| node.image().image_status(&image, verbose)).await)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> RpcResult<PullImageResponse> {
        // Pods that pull the same image share one pull, so the pod is not part of the key. The login is: kubelet tries
        // logins one after the other, and a registry may refuse one and accept the next.
        let request = PullImageRequest { sandbox_config: None, ..request.into_inner() };
        let key = request.encode_to_vec();
        let (image, auth) = (named(request.image)?, request.auth);
        let pull = move |node: &B, call: &_| node.image().pull_image(&image, auth.as_ref(), call);
        let image_ref = self.ask_once(&self.pull_image, key, (), pull).await?;
        respond(Ok(PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> RpcResult<RemoveImageResponse> {
        let image = named(request.into_inner().image)?;
        self.ask(Lane::Work, move |node| node.image().remove_image(&image)).await?;
        respond(Ok(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> RpcResult<ImageFsInfoResponse> {
        respond(self.ask(Lane::Images, |node| node.image().image_fs_info()).await)
    }
}

impl<B: Backend> Server<B> {
    async fn images(&self, filter: Option<ImageFilter>) -> Result<Vec<Image>> {
        let image = filter.and_then(|f| f.image).filter(|i| !i.image.is_empty());
        self.ask(Lane::Images, move |node| node.image().list_images(image.as_ref())).await
    }
}

fn named(image: Option<ImageSpec>) -> Result<ImageSpec> {
    image.filter(|i| !i.image.is_empty()).ok_or_else(|| Error::invalid("the image is missing or has no name"))
}
