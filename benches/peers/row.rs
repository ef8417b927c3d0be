//! What the benchmark writes and the charts read.

/// One figure: the median over rounds of time per operation and thread, and of its ratio to the floor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Row {
    pub name: String,
    pub kind: String,
    pub case: String,
    pub interpreters: usize,
    pub threads: usize,
    pub ns: f64,
    /// The quartiles of `ns`: half of the rounds lie between them. For the table only.
    #[serde(skip)]
    #[allow(dead_code, reason = "the charts do not draw it")]
    pub quartiles: Option<[f64; 2]>,
    pub floor_ratio: f64,
}
