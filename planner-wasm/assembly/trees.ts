/**
 * Ordered sets, each a treap known by its root (-1: empty) and each node in at most one. Nodes are ordered by key, then
 * by their own number; what is asked for is the first whose `open` (or `fit`) is large enough. Priorities are a hash of
 * the node's number, so the same calls build the same tree.
 */
import { i32At, setI32, takeI32 } from "./arena";

let keys: usize = 0;
let opens: usize = 0;
let fits: usize = 0;
let lefts: usize = 0;
let rights: usize = 0;
/** The largest of the node and all below it. */
let mostOpen: usize = 0;
let mostFit: usize = 0;
/** The two parts of the last split. */
let under: i32 = -1;
let over: i32 = -1;

export function resetTrees(nodes: i32): void {
  keys = takeI32(nodes);
  opens = takeI32(nodes);
  fits = takeI32(nodes);
  lefts = takeI32(nodes);
  rights = takeI32(nodes);
  mostOpen = takeI32(nodes);
  mostFit = takeI32(nodes);
}

function priority(node: i32): u32 {
  let x = <u32>(node + 1) * 0x9e3779b1;
  x ^= x >>> 15;
  x *= 0x85ebca77;
  return x ^ (x >>> 13);
}

function before(a: i32, b: i32): bool {
  const ka = i32At(keys, a);
  const kb = i32At(keys, b);
  return ka != kb ? ka < kb : a < b;
}

function sum(node: i32): void {
  let open = i32At(opens, node);
  let fit = i32At(fits, node);
  const left = i32At(lefts, node);
  if (left != -1) {
    open = max(open, i32At(mostOpen, left));
    fit = max(fit, i32At(mostFit, left));
  }
  const right = i32At(rights, node);
  if (right != -1) {
    open = max(open, i32At(mostOpen, right));
    fit = max(fit, i32At(mostFit, right));
  }
  setI32(mostOpen, node, open);
  setI32(mostFit, node, fit);
}

function split(root: i32, node: i32): void {
  if (root == -1) {
    under = -1;
    over = -1;
  } else if (before(root, node)) {
    split(i32At(rights, root), node);
    setI32(rights, root, under);
    sum(root);
    under = root;
  } else {
    split(i32At(lefts, root), node);
    setI32(lefts, root, over);
    sum(root);
    over = root;
  }
}

/** One tree of two, all of `a` before all of `b`. */
function meld(a: i32, b: i32): i32 {
  if (a == -1) return b;
  if (b == -1) return a;
  if (priority(a) > priority(b)) {
    setI32(rights, a, meld(i32At(rights, a), b));
    sum(a);
    return a;
  }
  setI32(lefts, b, meld(a, i32At(lefts, b)));
  sum(b);
  return b;
}

function attach(root: i32, node: i32): i32 {
  if (root == -1 || priority(node) > priority(root)) {
    split(root, node);
    setI32(lefts, node, under);
    setI32(rights, node, over);
    sum(node);
    return node;
  }
  const side = before(node, root) ? lefts : rights;
  setI32(side, root, attach(i32At(side, root), node));
  sum(root);
  return root;
}

/** The root afterwards. The node must be in no tree. */
export function insert(root: i32, node: i32, key: i32, open: i32, fit: i32): i32 {
  setI32(keys, node, key);
  setI32(opens, node, open);
  setI32(fits, node, fit);
  return attach(root, node);
}

/** The root afterwards. The node must be in that tree. */
export function remove(root: i32, node: i32): i32 {
  if (root == node) return meld(i32At(lefts, node), i32At(rights, node));
  const side = before(node, root) ? lefts : rights;
  setI32(side, root, remove(i32At(side, root), node));
  sum(root);
  return root;
}

/** The node, in that tree, has another `open` now. */
export function reopen(root: i32, node: i32, open: i32): void {
  if (root == node) setI32(opens, node, open);
  else reopen(i32At(before(node, root) ? lefts : rights, root), node, open);
  sum(root);
}

function first(root: i32, least: i32, values: usize, most: usize): i32 {
  if (root == -1 || i32At(most, root) < least) return -1;
  while (true) {
    const left = i32At(lefts, root);
    if (left != -1 && i32At(most, left) >= least) root = left;
    else if (i32At(values, root) >= least) return root;
    else root = i32At(rights, root);
  }
}

/** The first node whose `open` is at least that, or -1. */
export function firstOpen(root: i32, least: i32): i32 {
  return first(root, least, opens, mostOpen);
}

/** The first node whose `fit` is at least that, or -1. */
export function firstFit(root: i32, least: i32): i32 {
  return first(root, least, fits, mostFit);
}
