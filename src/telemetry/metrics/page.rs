//! vllama's part of the page: every family of the table, in its order.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::histogram::Histogram;

use super::machine::{Process, Reading};
use super::requests::{KeyFigures, ModelFigures, lock};
use super::samples::Families;
use super::table::{self as is, Family};
use super::{House, Metrics};
use crate::gpu::Gpu;
use crate::scheduler::{DeviceSnapshot, EngineSnapshot, Snapshot};

/// The states of an engine that the page tells.
const STATES: [&str; 7] = ["stopped", "starting", "ready", "asleep", "stopping", "restarting", "failed"];

/// All that one page tells.
#[derive(Debug)]
pub(super) struct Page {
    ready: bool,
    store_bytes: u64,
    connections: i32,
    refused: u64,
    models: BTreeMap<Box<str>, std::sync::Arc<ModelFigures>>,
    keys: BTreeMap<Box<str>, std::sync::Arc<KeyFigures>>,
    /// By the name of the model.
    engines: BTreeMap<String, EngineSnapshot>,
    /// Which of them have told their own metrics, of those that were asked.
    scraped: BTreeMap<String, bool>,
    devices: Vec<DeviceSnapshot>,
    swaps: u64,
    drains: u64,
    reading: Reading,
}

impl Page {
    pub fn new(metrics: &Metrics, house: &House<'_>, scraped: BTreeMap<String, bool>, reading: Reading) -> Self {
        let House { snapshot, ready, store_bytes } = *house;
        Self {
            ready,
            store_bytes,
            scraped,
            devices: snapshot.devices.clone(),
            swaps: snapshot.swaps,
            drains: snapshot.drains,
            connections: i32::try_from(metrics.connections.get()).unwrap_or(i32::MAX),
            refused: metrics.refused.get(),
            models: metrics.requests.models(),
            keys: metrics.requests.keys(),
            engines: by_name(snapshot),
            reading,
        }
    }
}

/// The engines by the names of their models. Two may have one name while a model is replaced: then the one that is loaded is
/// told, or the later one, as a page must not tell two values of one thing.
fn by_name(snapshot: &Snapshot) -> BTreeMap<String, EngineSnapshot> {
    let mut engines: BTreeMap<String, EngineSnapshot> = BTreeMap::new();
    for engine in &snapshot.engines {
        let name = engine.model.display();
        if engines.get(&name).is_none_or(|other| engine.loaded || !other.loaded) {
            engines.insert(name, engine.clone());
        }
    }
    engines
}

/// The state of an engine in one of [`STATES`].
fn state(engine: &EngineSnapshot) -> &'static str {
    match engine.state {
        "falling asleep" => "stopping",
        "waking" => "starting",
        state => state,
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Families(encoder);
        page.family(&is::BUILD_INFO, |samples| {
            samples.number(&[env!("CARGO_PKG_VERSION"), &self.reading.engine_version], 1.0)
        })?;
        page.family(&is::READY, |samples| samples.count(&[], self.ready.into()))?;
        self.requests(&mut page)?;
        self.engines(&mut page)?;
        self.gpus(&mut page)?;
        self.disks(&mut page)?;
        page.family(&is::CONNECTIONS, |samples| samples.number(&[], f64::from(self.connections)))?;
        page.family(&is::CONNECTIONS_REFUSED, |samples| samples.count(&[], self.refused))?;
        self.keys(&mut page)?;
        self.process(&mut page)
    }
}

impl Page {
    fn requests(&self, page: &mut Families<'_>) -> Result<(), Error> {
        page.each(&is::REQUESTS, &self.models, |samples, model, figures| {
            lock(&figures.routes).iter().try_for_each(|(route, figures)| {
                let mut each = figures.statuses.iter();
                each.try_for_each(|(status, count)| samples.count(&[route, model, &status.to_string()], *count))
            })
        })?;
        page.each(&is::REQUEST_DURATION, &self.models, |samples, model, figures| {
            let routes = lock(&figures.routes);
            routes.iter().try_for_each(|(route, figures)| samples.histogram(&[route, model], &figures.took))
        })?;
        type Of = fn(&ModelFigures) -> Option<&Histogram>;
        let histograms: [(&'static Family, Of); 3] = [
            (&is::FIRST_TOKEN, |figures| figures.first_token.seen()),
            (&is::TOKEN_GAP, |figures| figures.gap.seen()),
            (&is::QUEUE_WAIT, |figures| figures.wait.seen()),
        ];
        for (family, of) in histograms {
            page.each(family, &self.models, |samples, model, figures| {
                of(figures).map_or(Ok(()), |histogram| samples.histogram(&[model], histogram))
            })?;
        }
        self.queues(page)?;
        page.each(&is::PROMPT_TOKENS, &self.models, |samples, model, figures| {
            samples.count(&[model], figures.prompt.get())
        })?;
        page.each(&is::GENERATED_TOKENS, &self.models, |samples, model, figures| {
            samples.count(&[model], figures.generated.get())
        })?;
        page.each(&is::REPLAYS, &self.engines, |samples, model, engine| samples.count(&[model], engine.replayed))
    }

    fn queues(&self, page: &mut Families<'_>) -> Result<(), Error> {
        page.each(&is::QUEUE_LENGTH, &self.engines, |samples, model, engine| {
            samples.count(&[model], engine.waiting as u64)
        })?;
        page.each(&is::QUEUE_OLDEST, &self.engines, |samples, model, engine| {
            samples.number(&[model], engine.oldest_wait.unwrap_or_default().as_secs_f64())
        })?;
        page.each(&is::LEASES, &self.engines, |samples, model, engine| samples.count(&[model], engine.leases as u64))
    }

    fn engines(&self, page: &mut Families<'_>) -> Result<(), Error> {
        page.each(&is::ENGINE_STATE, &self.engines, |samples, name, engine| {
            let now = state(engine);
            STATES.iter().try_for_each(|state| samples.count(&[name, state], (*state == now).into()))
        })?;
        page.each(&is::ENGINE_STARTS, &self.engines, |samples, name, engine| samples.count(&[name], engine.starts))?;
        page.each(&is::ENGINE_RESTARTS, &self.engines, |samples, name, engine| {
            let mut each = engine.restarts_by_failure.iter();
            each.try_for_each(|(failure, count)| samples.count(&[name, failure], *count))
        })?;
        page.each(&is::ENGINE_WEDGES, &self.engines, |samples, name, engine| samples.count(&[name], engine.wedges))?;
        page.each(&is::ENGINE_START, &self.engines, |samples, name, engine| {
            engine.start_took.map_or(Ok(()), |took| samples.number(&[name], took.as_secs_f64()))
        })?;
        page.each(&is::ENGINE_PHASE, &self.engines, |samples, name, engine| {
            let mut each = engine.start_phases.iter();
            each.try_for_each(|(phase, took)| samples.number(&[name, phase], took.as_secs_f64()))
        })?;
        page.each(&is::ENGINE_MEMORY, &self.engines, |samples, name, engine| {
            samples.maybe(&[name], engine.memory_bytes)
        })?;
        page.each(&is::ENGINE_SCRAPE, &self.scraped, |samples, name, answered| {
            samples.count(&[name], (*answered).into())
        })?;
        page.family(&is::SWAPS, |samples| samples.count(&[], self.swaps))?;
        page.family(&is::DRAINS, |samples| samples.count(&[], self.drains))?;
        page.family(&is::MEMORY_BUDGET, |samples| {
            self.devices.iter().try_for_each(|device| samples.maybe(&[&device.name], device.budget))
        })?;
        page.family(&is::MEMORY_USED, |samples| {
            self.devices.iter().try_for_each(|device| samples.count(&[&device.name], device.used))
        })
    }

    fn gpus(&self, page: &mut Families<'_>) -> Result<(), Error> {
        let gpus: BTreeMap<String, Gpu> =
            self.reading.gpus.iter().enumerate().map(|(index, gpu)| (index.to_string(), gpu.clone())).collect();
        page.each(&is::GPU_MEMORY_USED, &gpus, |samples, index, gpu| samples.maybe(&[index], gpu.memory_used))?;
        page.each(&is::GPU_MEMORY_TOTAL, &gpus, |samples, index, gpu| samples.maybe(&[index], gpu.memory_total))?;
        page.each(&is::GPU_UTILIZATION, &gpus, |samples, index, gpu| {
            gpu.utilization.map_or(Ok(()), |percent| samples.number(&[index], f64::from(percent) / 100.0))
        })?;
        page.each(&is::GPU_TEMPERATURE, &gpus, |samples, index, gpu| {
            samples.maybe(&[index], gpu.temperature.map(u64::from))
        })?;
        page.each(&is::GPU_POWER, &gpus, |samples, index, gpu| {
            gpu.power.map_or(Ok(()), |watts| samples.number(&[index], watts))
        })?;
        page.each(&is::GPU_ECC_ERRORS, &gpus, |samples, index, gpu| samples.maybe(&[index], gpu.ecc_errors))
    }

    fn disks(&self, page: &mut Families<'_>) -> Result<(), Error> {
        page.family(&is::STORE, |samples| samples.count(&[], self.store_bytes))?;
        let volumes = &self.reading.volumes;
        page.family(&is::DISK_FREE, |samples| {
            volumes.iter().try_for_each(|volume| samples.count(&[volume.name], volume.free))
        })?;
        page.family(&is::DISK_SIZE, |samples| {
            volumes.iter().try_for_each(|volume| samples.count(&[volume.name], volume.size))
        })
    }

    fn keys(&self, page: &mut Families<'_>) -> Result<(), Error> {
        page.each(&is::KEY_REQUESTS, &self.keys, |samples, key, figures| {
            let statuses = lock(&figures.statuses);
            statuses.iter().try_for_each(|(status, count)| samples.count(&[key, &status.to_string()], *count))
        })?;
        page.each(&is::KEY_TOKENS, &self.keys, |samples, key, figures| {
            samples.count(&[key, "prompt"], figures.prompt.get())?;
            samples.count(&[key, "generated"], figures.generated.get())
        })?;
        page.each(&is::KEY_REFUSALS, &self.keys, |samples, key, figures| {
            lock(&figures.refusals).iter().try_for_each(|(reason, count)| samples.count(&[key, reason], *count))
        })
    }

    fn process(&self, page: &mut Families<'_>) -> Result<(), Error> {
        let Process { resident, descriptors, most_descriptors, processor_seconds } = self.reading.process;
        page.family(&is::RESIDENT_MEMORY, |samples| samples.maybe(&[], resident))?;
        page.family(&is::OPEN_DESCRIPTORS, |samples| samples.maybe(&[], descriptors))?;
        page.family(&is::MOST_DESCRIPTORS, |samples| samples.maybe(&[], most_descriptors))?;
        page.family(&is::STARTED, |samples| self.reading.started.map_or(Ok(()), |time| samples.number(&[], time)))?;
        page.family(&is::PROCESSOR_TIME, |samples| {
            processor_seconds.map_or(Ok(()), |seconds| samples.number(&[], seconds))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Facts;
    use crate::telemetry::metrics::{Ended, Format};

    fn told(metrics: &Metrics) -> String {
        let house = House { snapshot: &Snapshot::default(), ready: true, store_bytes: 1 };
        Format::Text.write(Page::new(metrics, &house, BTreeMap::new(), Reading::default()))
    }

    #[test]
    fn ten_thousand_made_up_models_do_not_make_the_page_grow() {
        let metrics = Metrics::default();
        let ask = |number: usize| {
            let facts = Facts::default();
            facts.set_route("/api/chat");
            facts.set_wanted(format!("model-{number}"));
            metrics.ended(Ended { status: 404, took: Duration::ZERO, facts: &facts });
        };
        ask(0);
        let before = told(&metrics).lines().count();
        (1..10_000).for_each(ask);
        let page = told(&metrics);
        assert_eq!(page.lines().count(), before);
        assert!(page.contains("{route=\"/api/chat\",model=\"other\",status=\"404\"} 10000\n"), "{page}");
    }

    #[test]
    fn every_family_of_the_table_is_told_in_its_order() {
        let page = told(&Metrics::default());
        let told: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let table: Vec<_> = is::TABLE.iter().map(|family| format!("{} {}", family.name, family.kind.word())).collect();
        assert_eq!(told, table);
    }
}
