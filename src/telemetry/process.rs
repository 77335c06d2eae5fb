//! The process itself, under the names that all Prometheus client libraries use. Read from `/proc` when scraped; where
//! there is none, there are none of these.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// Clock ticks per second in `/proc`: the kernel shows programs 100 on every architecture that Rust's `std` runs on.
const TICKS: f64 = 100.0;

/// Reads `/proc/self`.
pub(super) struct Process {
    cpu: Counter,
    open_files: Gauge,
    max_files: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    threads: Gauge,
    /// Set once: it does not change.
    start_time: Gauge,
}

impl Process {
    /// Registers the metrics, where `/proc` has them.
    pub(super) fn register(registry: &Registry) -> Result<(), prometheus::Error> {
        let gauge = |name: &str, help: &str| Gauge::new(name, help);
        let process = Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "User and system time spent, in seconds.",
            )?,
            open_files: gauge("process_open_fds", "Open file descriptors.")?,
            max_files: gauge(
                "process_max_fds",
                "The most file descriptors that may be open.",
            )?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory, in bytes.")?,
            resident_memory: gauge(
                "process_resident_memory_bytes",
                "Resident memory, in bytes.",
            )?,
            threads: gauge("process_threads", "Threads.")?,
            start_time: gauge(
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
            )?,
        };
        let Some(started) = start_time() else {
            return Ok(());
        };
        process.start_time.set(started);
        registry.register(Box::new(process))
    }

    fn gauges(&self) -> [&Gauge; 6] {
        [
            &self.open_files,
            &self.max_files,
            &self.virtual_memory,
            &self.resident_memory,
            &self.threads,
            &self.start_time,
        ]
    }

    fn read(&self) {
        if let Some(seconds) =
            fields().and_then(|fields| Some(ticks(&fields, 14)? + ticks(&fields, 15)?))
        {
            // Two scrapes at once may both be here; a counter never goes back.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder itself.
            let open = files.count().saturating_sub(1);
            self.open_files
                .set(u32::try_from(open).map_or(f64::MAX, f64::from));
        }
        if let Ok((soft, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
            #[allow(clippy::cast_precision_loss, reason = "as every sample is")]
            self.max_files.set(soft as f64);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, gauge, unit) in [
            ("VmSize:", &self.virtual_memory, 1024.0),
            ("VmRSS:", &self.resident_memory, 1024.0),
            ("Threads:", &self.threads, 1.0),
        ] {
            if let Some(value) = number(&status, name) {
                gauge.set(value * unit);
            }
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges().into_iter().flat_map(Collector::desc);
        self.cpu.desc().into_iter().chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let gauges = self.gauges().into_iter().flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).collect()
    }
}

/// The fields of `/proc/self/stat` from the third on (`proc_pid_stat(5)`): the second is a name that may hold anything.
fn fields() -> Option<Vec<String>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// A field by its number, which is a time in ticks, in seconds.
fn ticks(fields: &[String], number: usize) -> Option<f64> {
    let ticks: f64 = fields.get(number.checked_sub(3)?)?.parse().ok()?;
    Some(ticks / TICKS)
}

fn start_time() -> Option<f64> {
    let since_boot = ticks(&fields()?, 22)?;
    let booted = number(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    Some(booted + since_boot)
}

/// The number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_is_measured_as_it_is() {
        let registry = Registry::new();
        Process::register(&registry).expect("one of each name");
        let value = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == name);
            let metric = family.expect(name).get_metric()[0].clone();
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("is later");
        let age = now.as_secs_f64() - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        let (soft, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).expect("is known");
        #[allow(clippy::cast_precision_loss, reason = "as every sample is")]
        let limit = soft as f64;
        assert!((value("process_max_fds") - limit).abs() < 0.5);
        let before = value("process_open_fds");
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat")).collect();
        assert!(value("process_open_fds") > before + 20.0);
        drop(files);
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 1e6 && value("process_virtual_memory_bytes") > resident);
        assert!(value("process_threads") >= 1.0);

        let cpu = value("process_cpu_seconds_total");
        let mut sum = 0_u64;
        while value("process_cpu_seconds_total") < cpu + 0.02 {
            sum = (0..1_000_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
    }
}
