"""What an answer says, whether it is right, and how sure a count of right answers is."""
