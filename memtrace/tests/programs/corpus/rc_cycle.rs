// Children hold their parent by Rc where a Weak would have done: each tree is its own keeper. Five trees a second.
// leak: build_tree
// half: measured
mod pace;

use std::{cell::RefCell, rc::Rc};

struct Node {
    parent: Option<Rc<Node>>,
    children: RefCell<Vec<Rc<Node>>>,
    text: Vec<u8>,
}

#[inline(never)]
fn build_tree(children: u64) -> Rc<Node> {
    let root = Rc::new(Node { parent: None, children: RefCell::default(), text: vec![1; 200] });
    for _ in 0..children {
        let text = vec![2; 50 + pace::below(500) as usize];
        let child = Node { parent: Some(Rc::clone(&root)), children: RefCell::default(), text };
        root.children.borrow_mut().push(Rc::new(child));
    }
    root
}

#[inline(never)]
fn size(node: &Node) -> usize {
    let below: usize = node.children.borrow().iter().map(|child| size(child)).sum();
    below + node.text.len() + usize::from(node.parent.is_some())
}

fn main() {
    pace::begin();
    let mut sum = 0;
    loop {
        let tree = build_tree(2 + pace::below(6));
        sum += size(&tree);
        pace::rest(if sum == 0 { 199 } else { 200 });
    }
}
