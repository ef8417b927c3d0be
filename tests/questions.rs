//! docs/questions.md names tests; each has to be there.

use std::path::Path;

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path));
    let table = read("docs/questions.md").expect("the table");
    let mut file = String::new();
    let mut named = 0;
    for name in table.split('`').skip(1).step_by(2) {
        let Some((given, test)) = name.split_once("::") else { continue };
        if !given.is_empty() {
            file = match given.strip_prefix("signal_tests/") {
                Some(_) => format!("{given}.rs"),
                None => format!("tests/{given}.rs"),
            };
        }
        let text = read(&file).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
        let exists = match test.strip_suffix('*') {
            Some(start) => text.contains(&format!("fn {start}")),
            None => text.contains(&format!("fn {test}(")) || text.contains(&format!("\"{test}\"")),
        };
        assert!(exists, "{file} has no test {test}");
        named += 1;
    }
    assert!(named > 60, "the table is read wrongly: {named} names");
}
