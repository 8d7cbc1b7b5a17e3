"""One adapter made of several, on disk, by the methods of PEFT."""
