"""The reuse bench: any rule of composition, scored over libraries whose precondition is known."""
