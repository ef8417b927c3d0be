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
    pub floor_ratio: f64,
}
