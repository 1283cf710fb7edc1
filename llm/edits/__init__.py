"""Updates inside the model: what goes into a module where an answer is given (`keys`); facts written there in closed
form and by ROME (`closed_form`, `rome`, `editing`); and how far an expert's update acts on the questions beside its own
(`neighbours`, `kernel`)."""
