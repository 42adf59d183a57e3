//! `/api/create`: a model made from another, or from uploaded files (ollama-api §4.7).

use std::sync::Arc;

use super::change::{blocking, change};
use super::error::ApiError;
use super::json;
use super::names::allow;
use super::order::Order;
use super::progress::{self, Teller};
use super::pull::pulled;
use super::types::CreateRequest;
use crate::api::{App, Call, Reply};
use crate::model::digest::Sha256Digest;
use crate::model::gather::{self, GatherError, Kind};
use crate::model::store::{Checkpoint, Draft};
use crate::model::{Installed, ModelName, Overlay};

/// `POST /api/create`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn create(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let (order, stream) = {
        let text = json::text(&call.body)?;
        let request: CreateRequest = json::decode(&text)?;
        (Order::read(&request)?, request.stream.unwrap_or(true))
    };
    allow(&call, &order.name)?;
    order.from.as_ref().map_or(Ok(()), |from| allow(&call, from))?;
    call.facts.set_wanted(order.name.display());
    drop(call);
    progress::answer(stream, |teller| carry_out(app, order, teller)).await
}

async fn carry_out(app: Arc<App>, order: Order, teller: Teller) -> Result<(), ApiError> {
    let (checkpoint, inherited) = if let Some(from) = &order.from {
        let model = base(&app, from, &teller).await?;
        let mut inherited = model.overlay().clone();
        // A model that is changed in its place stays the child of whose child it was.
        if model.name != order.name {
            inherited.parent = model.name.display();
        }
        (Checkpoint::Of(model), inherited)
    } else if let Some(files) = &order.files {
        (gathered(&app, files, &teller).await?, Overlay::default())
    } else {
        return Err(ApiError::BadCreate("neither 'from' or 'files' was specified"));
    };
    let adapter = match order.adapters.clone() {
        Some(files) => {
            teller.say("converting adapter");
            let store = app.store.clone();
            Some(blocking(move || Ok(gather::adapter(&store, &files))).await??)
        }
        None => None,
    };
    let overlay = order.overlay(&inherited);
    if !order.template.is_empty() {
        teller.say("keeping the template to be shown; the engine renders the chat template of the checkpoint");
    }
    let layers = layers(&overlay);
    let store = app.store.clone();
    let mut known = self::layers(&inherited);
    known.extend(inherited.adapter.map(|adapter| adapter.digest));
    if let Checkpoint::Of(model) = &checkpoint {
        known.extend(model.manifest.checkpoint.clone());
    }
    let prepared = blocking(move || store.prepare(Draft { checkpoint, overlay, adapter })).await?;
    for layer in prepared.parts().chain(layers) {
        let verb = if known.contains(&layer) { "using existing layer" } else { "creating new layer" };
        teller.say(&format!("{verb} {layer}"));
    }
    teller.say("writing manifest");
    let (key, name) = (prepared.engine_key(), order.name.clone());
    change(&app, &order.name, Some(key), move |store| store.publish(prepared, &name).map(drop)).await
}

/// The model another is made from; one that is not installed is pulled first.
async fn base(app: &Arc<App>, name: &ModelName, teller: &Teller) -> Result<Arc<Installed>, ApiError> {
    match app.store.find(name) {
        Some(installed) => Ok(installed),
        None => pulled(app, name, teller).await,
    }
}

/// The checkpoint that uploaded files make.
async fn gathered(app: &Arc<App>, files: &gather::Files, teller: &Teller) -> Result<Checkpoint, ApiError> {
    let store = app.store.clone();
    let (staging, source) = match gather::kind(&store, files)? {
        Kind::Gguf(file) => {
            teller.say("parsing GGUF");
            let size = store.blobs().find(&file).and_then(|path| path.metadata().ok()).map_or(0, |facts| facts.len());
            let digest = file.to_string();
            // Clients show these as bytes.
            let tell = |done: u64, total: u64| {
                let bytes = u128::from(size) * u128::from(done) / u128::from(total.max(1));
                teller.part("converting model", &digest, u64::try_from(bytes).unwrap_or(size), size);
            };
            gather::import(&store, &app.python, &file, tell).await?
        }
        Kind::Safetensors => {
            teller.say("converting model");
            let files = files.clone();
            blocking(move || Ok(gather::checkpoint(&store, &files))).await??
        }
    };
    Ok(Checkpoint::Built(staging, source))
}

/// The digests of what an overlay adds, in Ollama's order.
fn layers(overlay: &Overlay) -> Vec<Sha256Digest> {
    let parameters = (!overlay.parameters.is_empty()).then(|| serde_json::to_vec(&overlay.parameters));
    let messages = (!overlay.messages.is_empty()).then(|| serde_json::to_vec(&overlay.messages));
    let json = [parameters, messages].into_iter().flatten().flatten();
    let texts = [&overlay.template].into_iter().chain(&overlay.license).chain([&overlay.system]);
    let texts = texts.filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
    texts.chain(json).map(|bytes| Sha256Digest::of(&bytes)).collect()
}

impl From<GatherError> for ApiError {
    fn from(error: GatherError) -> Self {
        match error {
            GatherError::None => Self::BadCreate("no files provided to convert"),
            GatherError::UnknownType => Self::BadCreate("unknown type"),
            GatherError::NotGguf => Self::BadCreate("supplied file was not in GGUF format"),
            GatherError::Missing(digest) => Self::NoBlob(digest),
            GatherError::Refused(text) => Self::NotSupported(text),
            GatherError::Failed(text) => Self::Import(text),
            GatherError::Store(error) => error.into(),
        }
    }
}
