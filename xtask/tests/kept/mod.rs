//! Lines of the event log of a kept run.

/// That a trial was planned, and that it ended with this `verdict`, which is fields of JSON. To follow a line
/// without its line end, and again without one.
pub fn trial(trial: &str, verdict: &str, reproduce: &str, time: u32) -> String {
    let parts: Vec<&str> = trial.split("::").collect();
    let parts = format!(
        r#""trial":"{trial}","case":"{}","nic":"{}","guest":"{}","backend":"{}""#,
        parts[0], parts[1], parts[2], parts[3]
    );
    format!(
        r#"
{{"event":"planned",{parts},"plan_item":"5","time":{time}}}
{{"event":"trial_ended",{parts},{verdict},"attempts":1,"seconds":3.4,"case_seconds":1.0,"notes":[],"serial_tail":"","artifacts":"","reproduce":"{reproduce}","time":{time}}}"#
    )
}

/// The end of a run that took so many seconds, to follow such a line.
pub fn end(seconds: f64, time: u32) -> String {
    format!(
        r#"
{{"event":"run_ended","seconds":{seconds:?},"interrupted":false,"harness_peak_kib":1,"time":{time}}}
"#
    )
}
