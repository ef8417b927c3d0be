//! Reads `interp_guard.h`: the functions that it declares, and the comment above each.

/// Comment and name of every function, in the header's order.
pub fn functions(header: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some(begin) = rest.find("/**") {
        let after = &rest[begin..];
        let end = after.find("*/").expect("a comment that ends") + 2;
        let (comment, code) = after.split_at(end);
        let code = &code[..code.find("/**").unwrap_or(code.len())];
        let declaration = &code[..code.find(['{', ';', '#']).unwrap_or(code.len())];
        if let Some(open) = declaration.find('(')
            && code[declaration.len()..].starts_with(';')
            && !declaration.contains("typedef")
        {
            let before = &declaration[..open];
            let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
            // A member that points to a function has its name elsewhere.
            if start < before.len() {
                found.push((comment, &before[start..]));
            }
        }
        rest = &after[end..];
    }
    found
}
