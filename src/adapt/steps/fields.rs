//! Fields of fstab(5) and crypttab(5), edited with the white space around them kept.

/// `options` with those of `more` that it lacks; `None` when it lacks none. An option with a value
/// counts as present whatever the value is.
pub(super) fn with_options(options: Option<&str>, more: &[&str]) -> Option<String> {
    let key = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<&str> = options.map_or(Vec::new(), |o| o.split(',').collect());
    let before = all.len();
    for option in more {
        if !all.iter().any(|there| key(there) == key(option)) {
            all.push(option);
        }
    }
    (all.len() > before).then(|| all.join(","))
}

/// `line` with its field number `index` replaced, or added at its end, all white space kept.
pub(super) fn replace_field(line: &str, index: usize, new: &str) -> String {
    let mut start = 0;
    for field in 0.. {
        let rest = &line[start..];
        let begin = start + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
        let len = line[begin..].find(char::is_whitespace).unwrap_or(line.len() - begin);
        if len == 0 {
            break;
        }
        if field == index {
            return format!("{}{new}{}", &line[..begin], &line[begin + len..]);
        }
        start = begin + len;
    }
    let content = line.trim_end();
    format!("{content} {new}{}", &line[content.len()..])
}
