// What each JavaScript context runs at first.
let jobs = 0, signalled = 0;
globalThis.nothing = () => 0;
globalThis.turns = () => { for (let turn = 0; turn < 100; turn++); return 0; };
globalThis.job = () => { turns(); return ++jobs; };
globalThis.signal = () => ++signalled;
globalThis.signals = () => signalled;
