//! A conversation with a guest over its serial console: log in, ask, run scripts, power off.
//!
//! Pure: lines go in, and bytes to type come out. Commands never contain the words that their answers
//! begin with, because the terminal echoes what is typed and breaks it anywhere.

use super::facts::{CheckResult, Facts, Outcome, judge};

/// Where scripts are in the guest; `identity` puts them there.
const SCRIPTS: &str = crate::identity::CHECKS;

/// How often a name is typed before the guest is given up. How long a shell takes is another matter: the
/// guest may be slow, and only the time limit ends waiting for it.
const TRIES: u32 = 8;

/// What prompts of a guest that wants a new password contain.
const CHANGES: [&str; 4] = ["urrent", "UNIX", "New ", "new "];

/// Why nothing is typed at such a prompt.
const EXPIRED: &str = "the guest wants root to choose a new password: the old one has expired (chage -l \
                       root); set another date in its /etc/shadow";

/// What the conversation waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// A prompt for a name.
    Name,
    /// A prompt for the password.
    Password,
    /// A shell that executes what is typed.
    Shell,
    /// The facts of the guest.
    Facts,
    /// The end of the script with this index.
    Script(usize),
    /// The guest's end.
    Off,
}

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Wait for more output.
    Wait,
    /// Type this.
    Type(String),
    /// The guest was told to power off: type this, and wait for its end.
    PowerOff(String),
    /// It can't go on, and why.
    GiveUp(String),
}

/// A conversation.
pub(super) struct Session {
    step: Step,
    password: String,
    /// Two halves of a word that occurs nowhere else.
    mark: (String, String),
    /// Names of the scripts of the user.
    scripts: Vec<String>,
    ask_facts: bool,
    /// How many seconds the guest's boot may still take.
    patience: u64,
    tries: u32,
    /// Whether the shell was asked already.
    asked: bool,
    facts: Facts,
    /// How many network cards the machine has.
    cards: usize,
    /// Whether the cursor is behind a prompt for a password, which must not get anything else.
    at_password: bool,
    results: Vec<CheckResult>,
}

impl Session {
    /// `nonce`: random letters and digits.
    pub(super) fn new(
        password: &str,
        nonce: &str,
        ask_facts: bool,
        scripts: Vec<String>,
        patience: u64,
    ) -> Self {
        let (first, second) = nonce.split_at(nonce.len() / 2);
        Self {
            step: Step::Name,
            password: password.to_owned(),
            mark: (format!("S{first}"), second.to_owned()),
            scripts,
            ask_facts,
            patience,
            tries: 0,
            asked: false,
            facts: Facts::default(),
            cards: 0,
            at_password: false,
            results: Vec::new(),
        }
    }

    /// The same for a machine with so many network cards.
    pub(super) fn with_cards(self, cards: usize) -> Self {
        Self { cards, ..self }
    }

    /// What is known so far.
    pub(super) fn results(self) -> Vec<CheckResult> {
        self.results
    }

    /// What the conversation waits for, in words.
    pub(super) fn waits_for(&self) -> String {
        match self.step {
            Step::Name => "a login prompt".into(),
            Step::Password => "a prompt for the password".into(),
            Step::Shell => "root's shell".into(),
            Step::Facts => "the answers of the check inside the guest".into(),
            Step::Script(n) => format!("the end of {}", self.scripts[n]),
            Step::Off => "the guest to power off".into(),
        }
    }

    /// A line is complete. `now`: this host's time in seconds since 1970.
    pub(super) fn line(&mut self, line: &str, now: u64) -> Next {
        if self.step == Step::Shell && line.contains("Login incorrect") {
            return Next::GiveUp(
                "the guest does not let root log in with the password that it was given".into(),
            );
        }
        if self.step == Step::Shell && line.contains("required to change your password") {
            return Next::GiveUp(EXPIRED.into());
        }
        let Some(said) =
            line.strip_prefix(&*self.mark.0).and_then(|l| l.strip_prefix(&*self.mark.1))
        else {
            return Next::Wait;
        };
        let said = said.trim();
        match self.step {
            Step::Shell if said == "shell" => self.proceed(),
            Step::Facts => {
                self.facts.add(said);
                if !self.facts.is_complete() {
                    return Next::Wait;
                }
                self.results.extend(judge(&self.facts, now, self.cards));
                self.next_script(0)
            }
            Step::Script(n) => {
                let Some(code) = said.strip_prefix("exit ") else { return Next::Wait };
                let name = &self.scripts[n];
                self.results.push(match code.trim().parse::<u8>() {
                    Ok(0) => CheckResult::new(name, Outcome::Ok, "exit code 0"),
                    Ok(code) => CheckResult::new(name, Outcome::Fail, format!("exit code {code}")),
                    Err(_) => CheckResult::new(name, Outcome::Fail, "no exit code"),
                });
                self.next_script(n + 1)
            }
            _ => Next::Wait,
        }
    }

    /// The console is silent, and `partial` is what the cursor's line shows.
    pub(super) fn silence(&mut self, partial: &str) -> Next {
        let shown = partial.trim_end();
        let (name, password) = (shown.ends_with("login:"), shown.ends_with("assword:"));
        self.at_password = password;
        match self.step {
            Step::Name | Step::Password | Step::Shell if name => {
                self.asked = false;
                self.again(Step::Password, "root")
            }
            Step::Name if password => self.again(Step::Name, ""), // of a name that somebody else typed
            Step::Password if password => {
                self.step = Step::Shell;
                Next::Type(format!("{}\n", self.password))
            }
            // "Current password:", "(current) UNIX password:", "New password:".
            Step::Shell if password && CHANGES.iter().any(|word| shown.contains(word)) => {
                Next::GiveUp(EXPIRED.into())
            }
            Step::Shell if !self.asked && !password => self.ask(),
            _ => Next::Wait,
        }
    }

    /// Nothing was typed for some time: a prompt may have been hidden by other output, and a shell that
    /// starts forgets what was typed before. Where the password belongs, nothing else is typed: a guest
    /// that shows no prompt for it asks for the name again after a minute.
    pub(super) fn nudge(&mut self) -> Next {
        match self.step {
            Step::Name => self.again(Step::Name, ""),
            Step::Shell if !self.at_password => self.ask(),
            _ => Next::Wait,
        }
    }

    /// Ask whether there is a shell.
    fn ask(&mut self) -> Next {
        self.asked = true;
        let (first, second) = &self.mark;
        Next::Type(format!("a={first}; echo \"${{a}}{second} shell\"\n"))
    }

    fn again(&mut self, step: Step, text: &str) -> Next {
        self.tries += 1;
        if self.tries > TRIES {
            return Next::GiveUp(format!(
                "root can't log in on the serial console: no {}",
                self.waits_for()
            ));
        }
        self.step = step;
        Next::Type(format!("{text}\n"))
    }

    fn proceed(&mut self) -> Next {
        if !self.ask_facts {
            return self.next_script(0);
        }
        self.step = Step::Facts;
        let ((first, second), patience) = (&self.mark, self.patience);
        Next::Type(format!("sh {SCRIPTS}/facts {first} {second} {patience}\n"))
    }

    fn next_script(&mut self, n: usize) -> Next {
        let Some(name) = self.scripts.get(n) else {
            self.step = Step::Off;
            return Next::PowerOff("sync; poweroff || halt -p\n".into());
        };
        self.step = Step::Script(n);
        let (first, second) = &self.mark;
        Next::Type(format!(
            "{SCRIPTS}/{name} </dev/null; b=$?; a={first}; echo; echo \"${{a}}{second} exit $b\"\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(next: Next) -> String {
        match next {
            Next::Type(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn from_the_prompt_to_the_end() {
        let mut s = Session::new("secret", "abcd1234", true, vec!["mine".into()], 60);
        assert_eq!(s.silence("[    1.0] usb"), Next::Wait);
        assert_eq!(typed(s.silence("web1 login: ")), "root\n");
        assert_eq!(typed(s.silence("Password: ")), "secret\n");
        let ask = typed(s.silence("root@web1:~# "));
        assert!(!ask.contains("abcd1234"), "{ask}");
        // The echo, wrapped by the terminal.
        assert_eq!(s.line("1234 shell\"", 0), Next::Wait);
        assert_eq!(
            typed(s.line("Sabcd1234 shell", 0)),
            "sh /etc/synthdisk/checks/facts Sabcd 1234 60\n"
        );
        for fact in ["begin", "init systemd", "state running", "swap 0 0", "root rw", "clock 100"] {
            assert_eq!(s.line(&format!("Sabcd1234 {fact}"), 100), Next::Wait);
        }
        let script = typed(s.line("Sabcd1234 end", 100));
        assert!(script.starts_with("/etc/synthdisk/checks/mine "), "{script}");
        assert!(!script.contains("abcd1234"));
        assert_eq!(s.line("some output", 0), Next::Wait);
        assert!(matches!(s.line("Sabcd1234 exit 3", 0), Next::PowerOff(_)));
        assert_eq!(s.waits_for(), "the guest to power off");
        let results = s.results();
        let last = results.last().unwrap();
        assert_eq!((last.name.as_str(), last.detail.as_str()), ("mine", "exit code 3"));
        assert!(
            results[..results.len() - 1].iter().all(|r| r.outcome != Outcome::Fail),
            "{results:?}"
        );
    }

    #[test]
    fn a_prompt_that_other_output_hides() {
        let mut s = Session::new("secret", "abcd1234", true, Vec::new(), 60);
        assert_eq!(s.silence("web1 login: [ 12.3] eth0: link is up"), Next::Wait);
        assert_eq!(typed(s.nudge()), "\n");
        assert_eq!(typed(s.silence("web1 login: ")), "root\n");
        // A line of its own would be taken for the password.
        assert_eq!(s.nudge(), Next::Wait);
        assert_eq!(typed(s.silence("Password: ")), "secret\n");
        // A slow guest forgets what was typed before its shell; only time ends the questions.
        assert!(typed(s.silence("")).contains("shell"));
        assert_eq!(s.silence("a banner"), Next::Wait);
        assert!((0..100).all(|_| typed(s.nudge()).contains("shell")));
    }

    #[test]
    fn nothing_is_typed_where_a_new_password_belongs() {
        for prompt in ["(current) UNIX password: ", "Current password: ", "New password: "] {
            let mut s = Session::new("secret", "abcd1234", true, Vec::new(), 60);
            let _ = s.silence("login:");
            let _ = s.silence("Password:");
            let next = s.silence(prompt);
            assert!(matches!(&next, Next::GiveUp(why) if why.contains("expired")), "{next:?}");
        }
        let mut s = Session::new("secret", "abcd1234", true, Vec::new(), 60);
        let _ = s.silence("login:");
        let _ = s.silence("Password:");
        // Asked again: the probe of a shell is no password.
        assert_eq!((s.silence("Password: "), s.nudge()), (Next::Wait, Next::Wait));
        let told = s.line("You are required to change your password immediately", 0);
        assert!(matches!(told, Next::GiveUp(_)));
    }

    #[test]
    fn who_is_not_let_in_gives_up() {
        let mut s = Session::new("secret", "abcd1234", true, Vec::new(), 60);
        let _ = s.silence("login:");
        let _ = s.silence("Password:");
        assert!(
            matches!(s.line("Login incorrect", 0), Next::GiveUp(why) if why.contains("let root"))
        );
        let mut s = Session::new("secret", "abcd1234", true, Vec::new(), 60);
        let ends = (0..100).map(|_| s.nudge()).find(|next| matches!(next, Next::GiveUp(_)));
        assert!(ends.is_some());
    }
}
