// Routes are made 'static by Box::leak, which was meant for those of the start, but is done for each request: 50 a
// second.
// leak: intern_route
// half: tuned
mod pace;

struct Route {
    pattern: String,
    weights: [u32; 60],
}

#[inline(never)]
fn intern_route(pattern: &str) -> &'static Route {
    Box::leak(Box::new(Route { pattern: pattern.to_owned(), weights: [1; 60] }))
}

#[inline(never)]
fn serve(path: &str) -> usize {
    let route = intern_route(path);
    let body = vec![b'x'; 500 + pace::below(2000) as usize];
    body.len() + route.pattern.len() + route.weights[pace::below(60) as usize] as usize
}

fn main() {
    pace::begin();
    let mut sum = 0;
    for number in 0.. {
        sum += serve(&format!("/items/{number}/parts/{}", sum % 7));
        pace::rest(20);
    }
}
