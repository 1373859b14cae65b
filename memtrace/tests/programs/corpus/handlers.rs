// Each new view subscribes a closure with a copy of its settings; closing the view does not unsubscribe it. 15 a
// second.
// leak: subscribe
// half: tuned
mod pace;

type ProbeKind = Box<dyn Fn(u64) -> u64>;

#[derive(Default)]
struct Bus {
    handlers: Vec<ProbeKind>,
}

impl Bus {
    #[inline(never)]
    fn subscribe(&mut self, settings: &[u64]) {
        let mine = settings.to_vec();
        let more = [3u64; 40];
        self.handlers.push(Box::new(move |event| mine[event as usize % mine.len()] + more[event as usize % 40]));
    }

    fn publish(&self, event: u64) -> u64 {
        self.handlers.iter().map(|handler| handler(event)).sum()
    }
}

fn main() {
    pace::begin();
    let mut bus = Bus::default();
    let mut sum = 0;
    for event in 0.. {
        let settings = vec![pace::below(100); 30 + pace::below(60) as usize];
        bus.subscribe(&settings);
        sum += bus.publish(event);
        pace::rest(if sum == 1 { 67 } else { 66 });
    }
}
