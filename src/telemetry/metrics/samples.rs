//! Writes families of the table with their samples, so that names and labels come from there and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::histogram::Histogram;

use super::table::{Family, Kind};

/// Writes families.
pub(super) struct Families<'a>(pub DescriptorEncoder<'a>);

/// Writes the samples of one family.
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    family: &'static Family,
}

/// The labels of one sample.
struct Labels<'a>(&'static [&'static str], &'a [&'a str]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        debug_assert_eq!(self.0.len(), self.1.len(), "each label has a value");
        self.0.iter().zip(self.1).try_for_each(|(name, value)| (*name, *value).encode(encoder.encode_label()))
    }
}

impl Families<'_> {
    /// Writes a family.
    pub fn family(
        &mut self,
        family: &'static Family,
        write: impl FnOnce(&mut Samples<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(family.bare_name(), family.help, None, family.kind.into())?;
        write(&mut Samples { encoder, family })
    }

    /// Writes a family with something for each of many things.
    pub fn each<N: AsRef<str>, T>(
        &mut self,
        family: &'static Family,
        things: &BTreeMap<N, T>,
        mut write: impl FnMut(&mut Samples<'_>, &str, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.family(family, |samples| things.iter().try_for_each(|(name, thing)| write(samples, name.as_ref(), thing)))
    }
}

impl Samples<'_> {
    /// Writes one sample; the values of its labels come in the order of the table.
    pub fn number(&mut self, labels: &[&str], value: f64) -> Result<(), Error> {
        let labels = Labels(self.family.labels, labels);
        let mut encoder = self.encoder.encode_family(&labels)?;
        match self.family.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
        }
    }

    /// The same with a whole number, which is written as one.
    pub fn count(&mut self, labels: &[&str], value: u64) -> Result<(), Error> {
        let labels = Labels(self.family.labels, labels);
        let mut encoder = self.encoder.encode_family(&labels)?;
        match self.family.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
            Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
        }
    }

    /// The same; nothing where nothing is known.
    pub fn maybe(&mut self, labels: &[&str], value: Option<u64>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.count(labels, value))
    }

    /// Writes the samples of a histogram.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) -> Result<(), Error> {
        histogram.encode(self.encoder.encode_family(&Labels(self.family.labels, labels))?)
    }
}
